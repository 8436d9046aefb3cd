# HTC, WRN-50-2-DCN-FPN, COCO (norm_eval=True, frozen_stages=1: ImageNet weights). LESA
# paper, Table 3, WR50 HTC Dconv. 20 (47.4 box, 41.9 mask AP printed). Stock mmdet HTC,
# sides of 512 to 2048, tested at 1024: 4 GPUs x 1 image, 20 epochs, SGD 0.005.
# docs/lesa.md#configs
_base_ = 'mmdet::htc/htc_r50_fpn_20e_coco.py'
custom_imports = dict(imports=['attn_plugins'])
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
                    keep_ratio=False,
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
    dict(type='Resize', scale=(1024, 1024), keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
model = dict(
    backbone=dict(
        type='LESAResNet',
        wide=True,
        stage_with_attn=(False, False, False, False),
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
        init_cfg=dict(checkpoint='torchvision://wide_resnet50_2'),
    )
)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=0.005))
auto_scale_lr = dict(base_batch_size=4)
