# T2T-ViT-7 (Performer, MEA: 16 heads, 64 slots), ImageNet: EA paper, Table II (68.6
# top-1, 6.2 M parameters printed). Recipe of eamlp7_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='performer'))
