# EANet, ResNet-101-d8, Pascal VOC 2012: EA paper, section 4.5 and Table V. The first of
# two phases, over stock mmseg FCN: 4 GPUs x 4 images of 513 x 513, 45k iterations on
# the augmented train set, SGD 0.009 poly. The stem is 64-64-128 wide, as released.
# docs/external_attention.md#eahead
_base_ = 'mmseg::fcn/fcn_r101-d8_4xb4-40k_voc12aug-512x512.py'
custom_imports = dict(imports=['attn_plugins'])
crop_size = (513, 513)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(2048, 513),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', size=crop_size),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(_base_.dataset_train, pipeline=train_pipeline),
            dict(_base_.dataset_aug, pipeline=train_pipeline),
        ]
    )
)
model = dict(
    data_preprocessor=dict(size=crop_size),
    # The released multi-grid 1-2-4 multiplies the stage's dilations 2, 4, 4.
    backbone=dict(stem_channels=128, multi_grid=(2, 8, 16)),
    decode_head=dict(
        _delete_=True,
        type='EAHead',
        in_channels=2048,
        in_index=3,
        num_classes=21,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=True,
    ),
    auxiliary_head=dict(align_corners=True),
)
optim_wrapper = dict(optimizer=dict(lr=0.009, weight_decay=0.0001))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=45000, by_epoch=False)
]
train_cfg = dict(max_iters=45000, val_interval=4500)
default_hooks = dict(checkpoint=dict(interval=4500))
