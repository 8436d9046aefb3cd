# GSA-ResNet-50 with axial content and position, ImageNet: GSA paper, Table 2. Recipe of
# gsa-r50_in1k.py.
# docs/gsa.md
_base_ = './gsa-r50_in1k.py'
model = dict(backbone=dict(attn=dict(axial_content=True)))
