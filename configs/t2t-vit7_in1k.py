# T2T-ViT-7 (Performer, self-attention), ImageNet: EA paper, Table II (71.7 top-1, 4.3 M
# parameters printed). Recipe: see eamlp7_in1k.py. Weight decay as for EAMLP-7; that of
# T2T-ViT-7 is not known.
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='performer', attn_type='transformer'))
