# EANet, ResNet-101-d8, ADE20K: EA paper, Table VI (45.33 mIoU printed). Stock mmseg FCN
# recipe: 4 GPUs x 4 images of 512 x 512, 160k iterations, SGD 0.01 poly.
# docs/external_attention.md
_base_ = 'mmseg::fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    decode_head=dict(
        _delete_=True,
        type='EAHead',
        in_channels=2048,
        in_index=3,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    )
)
