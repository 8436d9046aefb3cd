# EANet, ResNet-50-d8, Pascal VOC 2012, second phase: the recipe of
# eanet_r101_voc_trainval.py.
# docs/external_attention.md#eahead
_base_ = './eanet_r101_voc_trainval.py'
load_from = 'work_dirs/eanet_r50_voc/iter_45000.pth'
model = dict(backbone=dict(depth=50))
