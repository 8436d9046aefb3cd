# Mask R-CNN, WRN-50-2-DCN-FPN, COCO (norm_eval=True, frozen_stages=1, as released).
# LESA paper, Table 3, WR50 Dconv. 20 (44.7 box, 39.8 mask AP printed). Recipe of
# mask-rcnn_r50-dcn_coco_20e.py: 1024 x 1024, 4 GPUs x 2 images, 20 epochs.
# docs/lesa.md#configs
_base_ = './mask-rcnn_r50-dcn_coco_20e.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(
        type='LESAResNet',
        wide=True,
        stage_with_attn=(False, False, False, False),
        init_cfg=dict(checkpoint='torchvision://wide_resnet50_2'),
    )
)
