# EANet, ResNet-50-d8, Cityscapes: the recipe of eanet_r101_cityscapes.py, no row in the
# paper.
# docs/external_attention.md
_base_ = './eanet_r101_cityscapes.py'
model = dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(depth=50))
