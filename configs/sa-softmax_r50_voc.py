# FCN + self-attention, softmax: EA paper, Table I (76.2 mIoU printed), the recipe of
# eanet_r50_voc_os16.py.
# docs/external_attention.md#table-i
_base_ = './eanet_r50_voc_os16.py'
model = dict(decode_head=dict(attn=dict(type='SelfAttention2d')))
