# CamVid at half size (240 x 180), ResNet-18 of output stride 16, from random weights:
# 400 iterations of 4 crops of 120 x 160, AdamW 0.001 poly. No row of any paper: it is
# what three seeds of seven models take on two CPU cores.
_base_ = '../../configs/eanet_r18_camvid.py'
scale, crop_size = (240, 180), (120, 160)
resize = dict(type='Resize', scale=scale, keep_ratio=True)
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], scale=scale),
    dict(_base_.train_pipeline[3], crop_size=crop_size),
    *_base_.train_pipeline[4:],
]
# Labels after resizing: what is scored are the pixels of the files.
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[1:]]
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline), **workers)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), **workers)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline), **workers)
model = dict(data_preprocessor=dict(size=crop_size))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=400, by_epoch=False)
]
train_cfg = dict(max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=400, save_best=None))
