# htc_lesa-wrn50-dcn_coco_20e.py with aspect ratios kept, which the released code cannot
# run (norm_eval=True, frozen_stages=1); longer side 512 to 2048, in testing 1024. No
# row in the paper. 4 GPUs x 1 image, 20 epochs, SGD 0.005.
# docs/lesa.md#from-a-classifier-to-a-detector
_base_ = './htc_wrn50-dcn_coco_20e.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='RandomResize',
                    scale=(1024, 1024),
                    ratio_range=ratio_range,
                    keep_ratio=True,
                )
            ]
            for ratio_range in ((0.5, 1.0), (1.0, 2.0))
        ],
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
model = dict(
    backbone=dict(
        stage_with_attn=(False, False, True, True),
        rel_pos_input_size=1024,
    )
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
