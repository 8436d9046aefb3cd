# EANet at output stride 8: EA paper, Table I (77.8 mIoU printed), the recipe of
# eanet_r50_voc_os16.py.
# docs/external_attention.md#table-i
_base_ = './eanet_r50_voc_os16.py'
model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), multi_grid=(2, 8, 16))
)
