# HTC at 1280, LESA-WRN-50-DCN-FPN, COCO (norm_eval=True, frozen_stages=1, as released).
# LESA paper, Table 3, WR50 HTC LESA^h 20 (50.1 box, 43.9 mask AP printed). Recipe of
# htc_wrn50-dcn_coco_20e.py, tested at 1280 x 1280: 4 GPUs x 1 image, 20 epochs.
# docs/lesa.md#from-a-classifier-to-a-detector
_base_ = './htc_wrn50-dcn_coco_20e.py'
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1280, 1280), keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
model = dict(
    backbone=dict(
        stage_with_attn=(False, False, True, True),
        rel_pos_input_size=1280,
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
