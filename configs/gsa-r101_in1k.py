# GSA-ResNet-101, ImageNet: GSA paper, Figure 2. Recipe of gsa-r50_in1k.py.
# docs/gsa.md
_base_ = './gsa-r50_in1k.py'
model = dict(backbone=dict(depth=101))
