# LESA-WRN-50, ImageNet: LESA paper, Table 2 (80.2 top-1, 95.1 top-5, 60.6 M parameters
# printed, without the position tables). Recipe of lesa-r50_in1k.py.
# docs/lesa.md#configs
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(wide=True))
