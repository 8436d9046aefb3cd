# EANet, ResNet-18-d16, CamVid (11 classes, 480 x 360), from random weights on a CPU:
# 800 iterations of 8 images of 240 x 320, AdamW 0.001 poly. The example of a data set
# of your own.
# docs/own_data.md
_base_ = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['attn_plugins'])
classes = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'signsymbol', 'fence', 'car',
    'pedestrian', 'bicyclist',
)  # fmt: skip
palette = [
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
    (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
    (0, 128, 192),
]  # fmt: skip
void = 11
crop_size = (240, 320)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(480, 360),
        ratio_range=(0.5, 1.5),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75, ignore_index=void),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root='data/camvid',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    ignore_index=void,
    metainfo=dict(classes=classes, palette=palette),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        dataset,
        _delete_=True,
        data_prefix=dict(img_path='train', seg_map_path='trainannot'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset,
        _delete_=True,
        data_prefix=dict(img_path='val', seg_map_path='valannot'),
        pipeline=test_pipeline,
    )
)
test_dataloader = dict(
    dataset=dict(
        dataset,
        _delete_=True,
        data_prefix=dict(img_path='test', seg_map_path='testannot'),
        pipeline=test_pipeline,
    )
)
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=crop_size, seg_pad_val=void),
    backbone=dict(norm_cfg=norm_cfg, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(
        _delete_=True,
        type='EAHead',
        in_channels=512,
        in_index=3,
        num_classes=len(classes),
        norm_cfg=norm_cfg,
        ignore_index=void,
    ),
    auxiliary_head=dict(norm_cfg=norm_cfg, num_classes=len(classes), ignore_index=void),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.01)
)
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=800, by_epoch=False)
]
train_cfg = dict(max_iters=800, val_interval=200)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=200, save_best='mIoU')
)
