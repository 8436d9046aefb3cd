# GSA-ResNet-50 with attention in all stages but the first, ImageNet: GSA paper, Table
# 5. Recipe of gsa-r50_in1k.py.
# docs/gsa.md
_base_ = './gsa-r50_in1k.py'
model = dict(backbone=dict(stage_with_attn=(False, True, True, True)))
