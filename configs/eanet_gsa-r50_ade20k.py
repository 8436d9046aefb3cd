# EANet, GSA-ResNet-50-d8, ADE20K, random weights (norm_eval=False, nothing frozen).
# Two papers in one model: the head of eanet_r101_ade20k.py, and its recipe.
# No row in the GSA paper, which is about classification, and no weights of it: to start
# from a classifier of your own, trained in mmpretrain: --cfg-options load_from=FILE.
# The network is the paper's at output stride 8; dilation means nothing to it.
# Stock mmseg recipe: 4 GPUs x 4 images of 512 x 512, 160k iterations, SGD 0.01 poly.
_base_ = './eanet_r101_ade20k.py'
model = dict(
    pretrained=None,
    backbone=dict(type='GSAResNet', depth=50, rel_pos_input_size=512),
)
