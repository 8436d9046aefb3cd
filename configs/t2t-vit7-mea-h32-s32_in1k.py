# T2T-ViT-7 (Performer, MEA: 32 heads, 32 slots), ImageNet: EA paper, Table II (70.5
# top-1, 9.9 M parameters printed). Recipe of eamlp7_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(
    backbone=dict(token_type='performer', attn=dict(num_heads=32, num_slots=32))
)
