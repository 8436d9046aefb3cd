# T2T-ViT-19 (Performer, MEA: 28 heads, 64 slots), ImageNet: EA paper, Table II (79.3
# top-1, 54.6 M parameters printed). Recipe: see eamlp19_in1k.py.
_base_ = './eamlp19_in1k.py'
model = dict(backbone=dict(token_type='performer'))
