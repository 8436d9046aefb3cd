# T2T-ViT-7 (Performer, MEA: 16 heads, 128 slots), ImageNet: EA paper, Table II (69.9
# top-1, 6.3 M parameters printed). Recipe of eamlp7_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='performer', attn=dict(num_slots=128)))
