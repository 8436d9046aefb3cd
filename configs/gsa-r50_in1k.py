# GSA-ResNet-50, ImageNet: GSA paper, Figure 2, Tables 3 to 5 (figures not at hand).
# Over stock mmpretrain ResNet-50: 8 GPUs x 256 images of 224 x 224, 90 epochs, SGD 0.1
# cosine, label smoothing 0.1. Base of the GSA rows.
# docs/gsa.md
_base_ = 'mmpretrain::resnet/resnet50_8xb32-lbs_in1k.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(backbone=dict(type='GSAResNet', rel_pos_input_size=224))
train_dataloader = dict(batch_size=256)
param_scheduler = dict(
    _delete_=True,
    type='CosineAnnealingLR',
    T_max=90,
    by_epoch=True,
    begin=0,
    end=90,
)
train_cfg = dict(max_epochs=90)
auto_scale_lr = dict(base_batch_size=2048)
