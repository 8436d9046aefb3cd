# EAMLP-BN-14, ImageNet: EA paper, Table II ("failed": it did not converge). Batch norm,
# not synchronised, before the MLPs of the blocks. Recipe of eamlp14_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp14_in1k.py'
model = dict(backbone=dict(mlp_norm_cfg=dict(type='BN1d')))
