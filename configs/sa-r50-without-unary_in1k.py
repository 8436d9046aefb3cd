# sa-r50_in1k.py evaluated without each pixel's weight for itself: LESA paper, Table 1,
# second row (71.13 top-1 printed, 78.69 for the whole network). For tools/test.py with
# a checkpoint of that config.
# docs/lesa.md#how-much-of-which-term
_base_ = './sa-r50_in1k.py'
custom_hooks = [dict(type='TermWeightHook', without_unary=True)]
