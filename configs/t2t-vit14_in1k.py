# T2T-ViT-14 (Performer, self-attention), ImageNet: EA paper, Table II (81.5 top-1, 21.5
# M parameters printed). Recipe of eamlp14_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp14_in1k.py'
model = dict(backbone=dict(token_type='performer', attn_type='transformer'))
