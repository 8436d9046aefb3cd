# GSA-ResNet-50 with content attention and columns, ImageNet: GSA paper, Table 4. Recipe
# of gsa-r50_in1k.py.
# docs/gsa.md
_base_ = './gsa-r50_in1k.py'
model = dict(backbone=dict(attn=dict(rows=False)))
