# T2T-ViT-19 (Performer, MEA: 28 heads, 64 slots), ImageNet: EA paper, Table II (79.3
# top-1, 54.6 M parameters printed). Recipe of eamlp19_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp19_in1k.py'
model = dict(backbone=dict(token_type='performer'))
