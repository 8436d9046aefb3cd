# T2T-ViT-7 (EA, self-attention), ImageNet: EA paper, Table II (71.7 top-1, 4.2 M
# parameters printed). Recipe of eamlp7_in1k.py. Weight decay is that of EAMLP-7.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(attn_type='transformer'))
