# EAMLP-BN-14, ImageNet: EA paper, Table II ("failed": it did not converge):
# batch norm in place of layer norm before the MLPs of the blocks, for each GPU alone
# (whether synchronised is not printed). Recipe: see eamlp14_in1k.py.
_base_ = './eamlp14_in1k.py'
model = dict(backbone=dict(mlp_norm_cfg=dict(type='BN1d')))
