# Mask R-CNN, GSA-ResNet-50-FPN, COCO, random weights (norm_eval=False,
# frozen_stages=-1). No row in the GSA paper. Stock mmdet 1x recipe: 8 GPUs x 2 images,
# 12 epochs, SGD 0.02.
# docs/gsa.md
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
