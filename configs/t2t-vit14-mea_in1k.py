# T2T-ViT-14 (Performer, MEA: 24 heads, 64 slots), ImageNet: EA paper, Table II (78.7
# top-1, 29.9 M parameters printed). Recipe of eamlp14_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp14_in1k.py'
model = dict(backbone=dict(token_type='performer'))
