# FCN, GSA-ResNet-50-d8, ADE20K, from random weights (norm_eval=False, nothing frozen).
# No row in the GSA paper, which is about classification, and no weights of it: to start
# from a classifier of your own, trained in mmpretrain: --cfg-options load_from=FILE.
# The network is the paper's at output stride 8; dilation means nothing to it.
# Stock mmseg recipe: 4 GPUs x 4 images of 512 x 512, 160k iterations, SGD 0.01 poly.
_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    pretrained=None,
    backbone=dict(type='GSAResNet', rel_pos_input_size=512),
)
