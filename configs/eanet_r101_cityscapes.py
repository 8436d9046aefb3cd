# EANet, ResNet-101-d8, Cityscapes: EA paper, Table VII (81.7 mIoU printed). Stock mmseg
# FCN recipe: 4 GPUs x 2 images of 512 x 1024 (the paper does not print the crop), 80k
# iterations, SGD 0.01 poly.
# docs/external_attention.md
_base_ = 'mmseg::fcn/fcn_r101-d8_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    decode_head=dict(
        _delete_=True,
        type='EAHead',
        in_channels=2048,
        in_index=3,
        num_classes=19,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    )
)
