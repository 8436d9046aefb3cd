# Self-attention WRN-50, ImageNet: LESA paper, Table 2 (79.7 top-1, 94.7 top-5, 37.7 M
# parameters printed, without the position tables): LESA's context term alone. Recipe of
# lesa-r50_in1k.py.
# docs/lesa.md#configs
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(wide=True, attn=dict(variant='attention')))
