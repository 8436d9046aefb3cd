# Mask R-CNN, ResNet-18-FPN, from random weights, on 11 photographs of three kinds of
# nuts, in COCO's layout: 400 iterations of 2 images of at most 192 x 144, AdamW
# 0.0005, cosine; FPN and heads of 64 channels, 64 RoIs per image. No row of any paper:
# it is what three seeds of four models take on two CPU cores. Norms learn: there are no
# weights to keep.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
classes = ('date', 'fig', 'hazelnut')
data_root = 'data/nuts/'
width = 64
small = dict(in_channels=width)
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=width),
    rpn_head=dict(small, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        mask_roi_extractor=dict(out_channels=width),
        bbox_head=dict(small, fc_out_channels=256, num_classes=len(classes)),
        mask_head=dict(small, conv_out_channels=width, num_classes=len(classes)),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
)
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomResize', scale=(192, 144), ratio_range=(0.75, 1), keep_ratio=True),
    *_base_.train_pipeline[3:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(192, 144), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(_delete_=True, type='InfiniteSampler'),
    dataset=dict(dataset, pipeline=train_pipeline),
    **workers,
)
val_dataloader = dict(dataset=dict(dataset, pipeline=test_pipeline), **workers)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0005, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=50, end=400, T_max=350, by_epoch=False),
]
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=400, val_interval=400
)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=400))
log_processor = dict(by_epoch=False)
