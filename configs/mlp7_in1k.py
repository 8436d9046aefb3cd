# MLP-7, ImageNet: EA paper, Table II ("failed": it did not converge). External
# attention without its norms: nothing goes from token to token. Recipe of
# eamlp7_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='mlp', attn_type='mlp'))
