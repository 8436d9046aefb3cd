# Static LESA-ResNet-50, ImageNet: LESA paper, Table 6 (79.12 top-1, 94.62 top-5, 20.43
# M parameters printed): both terms added, no gate. Recipe of lesa-r50_in1k.py.
# docs/lesa.md#configs
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(attn=dict(variant='static')))
