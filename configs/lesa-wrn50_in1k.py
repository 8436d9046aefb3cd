# LESA-WRN-50, ImageNet: LESA paper, Table 2 (80.2 top-1, 95.1 top-5, 60.6 M parameters
# printed; the released network has 61.146 M, 60.595 M of them outside of its position
# tables). Recipe of lesa-r50_in1k.py.
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(wide=True))
