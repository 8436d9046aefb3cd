# EANet, ResNet-50-d16, Pascal VOC 2012 aug: EA paper, Table I (77.4 mIoU printed); base
# of its other rows. 4 GPUs x 3 images of 513 x 513, 30k iterations, SGD 0.009 poly.
# docs/external_attention.md#table-i
_base_ = './eanet_r50_voc.py'
model = dict(
    # The released multi-grid 1-2-4 multiplies the stage's dilations 1, 2, 2.
    backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), multi_grid=(1, 4, 8))
)
train_dataloader = dict(batch_size=3)
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=30000, by_epoch=False)
]
train_cfg = dict(max_iters=30000, val_interval=3000)
default_hooks = dict(checkpoint=dict(interval=3000))
