# Mask R-CNN, LESA-ResNet-50-FPN, COCO (norm_eval=True, frozen_stages=1, as released).
# LESA paper, Table 3, R50 LESA 12 (40.3 box, 36.5 mask AP printed). Recipe of
# mask-rcnn_r50_coco.py: 1024 x 1024, 4 GPUs x 2 images, 12 epochs.
# docs/lesa.md#from-a-classifier-to-a-detector
_base_ = './mask-rcnn_r50_coco.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(
        type='LESAResNet',
        rel_pos_input_size=1024,
    )
)
