# EANet, ResNet-50-d8, ADE20K: the recipe of eanet_r101_ade20k.py, no row in the paper.
# docs/external_attention.md
_base_ = './eanet_r101_ade20k.py'
model = dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(depth=50))
