# EAMLP-BN-7, ImageNet: EA paper, Table II (70.0 top-1, 6.1 M parameters printed):
# batch norm in place of layer norm before the MLPs of the blocks, for each GPU alone
# (whether synchronised is not printed). Recipe: see eamlp7_in1k.py.
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(mlp_norm_cfg=dict(type='BN1d')))
