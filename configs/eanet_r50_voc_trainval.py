# EANet, ResNet-50-d8, Pascal VOC 2012, second phase: as eanet_r101_voc_trainval.py.
_base_ = './eanet_r101_voc_trainval.py'
load_from = 'work_dirs/eanet_r50_voc/iter_45000.pth'
model = dict(backbone=dict(depth=50))
