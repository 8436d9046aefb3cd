# EANet, ResNet-101-d16: EA paper, Table I (78.3 mIoU printed), the recipe of
# eanet_r50_voc_os16.py.
# docs/external_attention.md#table-i
_base_ = './eanet_r50_voc_os16.py'
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
