# EAMLP-19, ImageNet: EA paper, Table II (79.4 top-1, 54.6 M parameters printed). Stock
# mmpretrain T2T-ViT recipe: 8 GPUs x 64 images of 224 x 224, 300 + 10 epochs, AdamW
# 5e-4 cosine, weight decay 0.065. 28 heads, as released.
# docs/eamlp.md#configs
_base_ = 'mmpretrain::t2t_vit/t2t-vit-t-19_8xb64_in1k.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(backbone=dict(type='EAMLP', depth=19))
