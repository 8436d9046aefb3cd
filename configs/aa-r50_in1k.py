# Attention-augmented ResNet-50, ImageNet: LESA paper, Table 6 (78.74 top-1, 94.23
# top-5, 25.15 M parameters printed; 25.245 M here). After Bello et al. (arXiv
# 1904.09925): a 3x3 convolution to C - d_v channels beside 8 heads of attention,
# d_k = 0.2 C and d_v = 0.1 C, rounded to multiples of 8. Recipe of lesa-r50_in1k.py.
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(attn=dict(variant='augmentation')))
custom_hooks = []  # its terms stand side by side: no shares
