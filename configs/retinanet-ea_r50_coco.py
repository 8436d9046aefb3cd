# RetinaNet, ResNet-50-FPN, COCO, one EA at the end of ResNet stage 4: EA paper, Table
# III (37.4 box AP printed, 36.5 without). Over stock mmdet 1x: 8 GPUs x 2 images, 12
# epochs, SGD 0.02. 64 slots are our choice.
# docs/external_attention.md#eaneck
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    neck=[
        dict(type='EANeck', in_channels=[256, 512, 1024, 2048], stages=(3,)),
        {{_base_.model.neck}},
    ]
)
