# Attention-augmented ResNet-50, ImageNet: LESA paper, Table 6 (78.74 top-1, 94.23
# top-5, 25.15 M parameters printed; 25.245 M here). After arXiv 1904.09925: 8 heads,
# d_k = 0.2 C, d_v = 0.1 C, rounded to multiples of 8. Recipe of lesa-r50_in1k.py.
# docs/lesa.md#configs
_base_ = './lesa-r50_in1k.py'
model = dict(backbone=dict(attn=dict(variant='augmentation')))
custom_hooks = []  # its terms stand side by side: no shares
