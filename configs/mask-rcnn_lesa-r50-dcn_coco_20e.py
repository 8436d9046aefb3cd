# Mask R-CNN, LESA-R50-DCN-FPN, COCO (norm_eval=True, frozen_stages=1, as released).
# LESA paper, Table 3, R50 LESA 20 (44.0 box, 39.2 mask AP printed). Recipe of
# mask-rcnn_r50-dcn_coco_20e.py: 1024 x 1024, 4 GPUs x 2 images, 20 epochs.
# docs/lesa.md#from-a-classifier-to-a-detector
_base_ = './mask-rcnn_r50-dcn_coco_20e.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(
        type='LESAResNet',
        rel_pos_input_size=1024,
    )
)
