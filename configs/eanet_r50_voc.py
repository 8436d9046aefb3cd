# EANet, ResNet-50-d8, Pascal VOC 2012: the recipe of eanet_r101_voc.py.
# docs/external_attention.md#eahead
_base_ = './eanet_r101_voc.py'
model = dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(depth=50))
