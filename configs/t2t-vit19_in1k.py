# T2T-ViT-19 (Performer, self-attention), ImageNet: EA paper, Table II (81.9 top-1, 39.2
# M parameters printed). Recipe of eamlp19_in1k.py. 7 heads: the 6 of the table do not
# divide 448.
# docs/eamlp.md#configs
_base_ = './eamlp19_in1k.py'
model = dict(backbone=dict(token_type='performer', attn_type='transformer'))
