# T2T-ViT-7 (Performer, MEA: 1 head, 256 slots), ImageNet: EA paper, Table II (63.2
# top-1, 4.3 M parameters printed). Recipe of eamlp7_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='performer', attn_type='ea'))
