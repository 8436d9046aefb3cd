# MLP-7, ImageNet: EA paper, Table II ("failed": it did not converge). Recipe: see
# eamlp7_in1k.py. The paper does not describe it. Here an MLP is what external attention
# is without its norms: nothing goes from token to token, so that the class token never
# sees the image.
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(token_type='mlp', attn_type='mlp'))
