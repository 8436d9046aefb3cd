# EANet's head without attention: EA paper, Table I (75.7 mIoU printed), the recipe of
# eanet_r50_voc_os16.py.
# docs/external_attention.md#table-i
_base_ = './eanet_r50_voc_os16.py'
model = dict(decode_head=dict(attn=None))
