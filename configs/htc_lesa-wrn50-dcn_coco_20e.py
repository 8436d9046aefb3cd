# HTC, LESA-WRN-50-2-DCN-FPN, COCO (norm_eval=True, frozen_stages=1, as released). LESA
# paper, Table 3, WR50 HTC LESA 20 (48.8 box, 43.0 mask AP printed). Recipe of
# htc_wrn50-dcn_coco_20e.py: 4 GPUs x 1 image, 20 epochs, SGD 0.005.
# docs/lesa.md#from-a-classifier-to-a-detector
_base_ = './htc_wrn50-dcn_coco_20e.py'
model = dict(
    backbone=dict(
        stage_with_attn=(False, False, True, True),
        rel_pos_input_size=1024,
    )
)
