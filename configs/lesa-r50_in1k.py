# LESA-ResNet-50, ImageNet: LESA paper, Tables 2, 6 (79.55 top-1, 94.79 top-5, 23.78 M
# parameters printed). Over stock mmpretrain ResNet-50, last stage at stride 1: 4 GPUs x
# 32 images of 224 x 224, 5 + 90 epochs, SGD 0.05 cosine.
# docs/lesa.md#configs
_base_ = 'mmpretrain::resnet/resnet50_8xb32-coslr_in1k.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(
        type='LESAResNet',
        strides=(1, 2, 2, 1),
        rel_pos_input_size=224,
        attn=dict(position='flat'),
    )
)
custom_hooks = [dict(type='TermWeightHook')]  # the shares of Table 2
optim_wrapper = dict(optimizer=dict(lr=0.05, nesterov=True))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', T_max=90, by_epoch=True, begin=5, end=95),
]
train_cfg = dict(max_epochs=95)
auto_scale_lr = dict(base_batch_size=128)
