# T2T-ViT-7 at 384 x 384 (Performer, MEA), ImageNet: EA paper, Table II (70.9 top-1, 6.3
# M parameters printed). Recipe of eamlp7_in1k_384.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k_384.py'
model = dict(backbone=dict(token_type='performer'))
