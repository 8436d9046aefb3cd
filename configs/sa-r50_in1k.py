# Self-attention ResNet-50, ImageNet: LESA paper, Tables 1, 2, 6 (78.69 top-1, 94.22
# top-5, 18.06 M parameters printed): LESA's context term alone. Recipe of
# lesa-r50_in1k.py.
# docs/lesa.md#configs
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(attn=dict(variant='attention')))
