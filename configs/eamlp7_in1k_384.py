# EAMLP-7 at 384 x 384, ImageNet: EA paper, Table II (71.7 top-1, 6.2 M parameters
# printed; 71.66 in the last epoch of the released run). Recipe of eamlp7_in1k.py: 8
# GPUs x 64 images.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(img_size=384))
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], scale=384),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=426),  # 384 / 0.9, as 248 is 224 / 0.9
    dict(_base_.test_pipeline[2], crop_size=384),
    *_base_.test_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
