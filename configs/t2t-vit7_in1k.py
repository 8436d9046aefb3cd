# T2T-ViT-7 (Performer, self-attention), ImageNet: EA paper, Table II (71.7 top-1, 4.3 M
# parameters printed). Recipe of eamlp7_in1k.py. Weight decay is that of EAMLP-7.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='performer', attn_type='transformer'))
