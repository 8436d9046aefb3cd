# EAMLP-BN-7, ImageNet: EA paper, Table II (70.0 top-1, 6.1 M parameters printed). Batch
# norm, not synchronised, before the MLPs of the blocks. Recipe of eamlp7_in1k.py.
# docs/eamlp.md#configs
_base_ = './eamlp7_in1k.py'
model = dict(backbone=dict(mlp_norm_cfg=dict(type='BN1d')))
