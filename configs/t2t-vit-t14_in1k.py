# T2T-ViT-14 (self-attention throughout), ImageNet: EA paper, Table II (81.7 top-1, 21.5
# M parameters printed). Recipe of eamlp14_in1k.py. The stock network with the paper's
# scale of the logits.
# docs/eamlp.md#configs
_base_ = './eamlp14_in1k.py'
model = dict(backbone=dict(token_type='transformer', attn_type='transformer'))
