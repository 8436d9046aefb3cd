# T2T-ViT-7 (Performer, self-attention in 1 head), ImageNet: EA paper, Table II (67.4
# top-1, 4.3 M parameters printed). Recipe of eamlp7_in1k.py. Weight decay is that of
# EAMLP-7.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(
    backbone=dict(
        token_type='performer', attn_type='transformer', layer_cfgs=dict(num_heads=1)
    )
)
