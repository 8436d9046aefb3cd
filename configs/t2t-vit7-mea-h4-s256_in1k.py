# T2T-ViT-7 (Performer, MEA: 4 heads, 256 slots), ImageNet: EA paper, Table II (66.8
# top-1, 5.9 M parameters printed). Recipe of eamlp7_in1k.py. The width is not printed:
# of the multiples of C = 256, 768 alone gives 5.9 M.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(
    backbone=dict(
        token_type='performer',
        attn=dict(num_heads=4, num_slots=256, mid_channels=768),
    )
)
