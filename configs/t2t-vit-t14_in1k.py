# T2T-ViT-14 (self-attention throughout), ImageNet: EA paper, Table II (81.7 top-1, 21.5
# M parameters printed). Recipe: see eamlp14_in1k.py. The same network as the stock
# base, but for the scale of the logits, which is the papers' here (see
# attn_plugins/mm/eamlp.py).
_base_ = './eamlp14_in1k.py'
model = dict(backbone=dict(token_type='transformer', attn_type='transformer'))
