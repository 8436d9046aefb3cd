# T2T-ViT-7 (EA, self-attention), ImageNet: EA paper, Table II (71.7 top-1, 4.2 M
# parameters printed). Recipe: see eamlp7_in1k.py. Weight decay as for EAMLP-7; that of
# T2T-ViT-7 is not known.
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(attn_type='transformer'))
