# GSA-ResNet-38, CIFAR-100, from ImageNet weights: GSA paper, Figure 3. Recipe of
# gsa-r50_cifar100.py.
# docs/gsa.md
_base_ = './gsa-r50_cifar100.py'
model = dict(
    backbone=dict(
        depth=38, init_cfg=dict(checkpoint='work_dirs/gsa-r38_in1k/epoch_90.pth')
    )
)
