# EANet, GSA-ResNet-50-d8, ADE20K, random weights (norm_eval=False, nothing frozen): the
# head and recipe of eanet_r101_ade20k.py, no row in either paper. 4 GPUs x 4 images of
# 512 x 512, 160k iterations, SGD 0.01 poly.
# docs/gsa.md
_base_ = './eanet_r101_ade20k.py'
model = dict(
    pretrained=None,
    backbone=dict(type='GSAResNet', depth=50, rel_pos_input_size=512),
)
