# FCN, GSA-ResNet-50-d8, ADE20K, random weights (norm_eval=False, nothing frozen). No
# row in the GSA paper. Stock mmseg recipe: 4 GPUs x 4 images of 512 x 512, 160k
# iterations, SGD 0.01 poly.
# docs/gsa.md
_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    pretrained=None,
    backbone=dict(type='GSAResNet', rel_pos_input_size=512),
)
