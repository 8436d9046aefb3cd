# LESA paper, Table 1, second row (71.13 top-1 printed, 78.69 for the whole network):
# that of sa-r50_in1k.py, evaluated without what each pixel takes from itself. For
# tools/test.py with a checkpoint of that config; its training would be the same.
_base_ = './sa-r50_in1k.py'
custom_hooks = [dict(type='TermWeightHook', without_unary=True)]
