# GSA-ResNet-50 with attention in the last two stages, ImageNet: GSA paper, Table 5.
# Recipe of gsa-r50_in1k.py.
# docs/gsa.md
_base_ = './gsa-r50_in1k.py'
model = dict(backbone=dict(stage_with_attn=(False, False, True, True)))
