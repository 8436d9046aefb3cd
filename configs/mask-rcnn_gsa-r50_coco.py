# Mask R-CNN, GSA-ResNet-50, COCO, random weights (norm_eval=False, frozen_stages=-1).
# No row in the GSA paper, which is about classification, and no weights of it: to start
# from a classifier of your own, trained in mmpretrain: --cfg-options load_from=FILE.
# Stock mmdet 1x recipe: 8 GPUs x 2 images, 12 epochs, SGD 0.02. Position tables for
# 1344 pixels, 1333 padded to a multiple of 32; others are resized when loaded.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(
        type='GSAResNet',
        rel_pos_input_size=1344,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    )
)
