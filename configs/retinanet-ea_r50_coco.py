# RetinaNet, ResNet-50-FPN, COCO, with one EA at the end of ResNet stage 4: EA paper,
# Table III (37.4 box AP printed, 36.5 without). Stock mmdet 1x recipe: 8 GPUs x 2
# images, 12 epochs, SGD 0.02. The paper prints neither slots nor width: 64 slots at
# 2048 channels (+8.7 M parameters) is our choice; mid_channels=256 adds 1.1 M.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    neck=[
        dict(type='EANeck', in_channels=[256, 512, 1024, 2048], stages=(3,)),
        {{_base_.model.neck}},
    ]
)
