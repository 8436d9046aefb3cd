# EANet, softmax over slots: EA paper, Table I (75.3 mIoU printed), the recipe of
# eanet_r50_voc_os16.py.
# docs/external_attention.md#table-i
_base_ = './eanet_r50_voc_os16.py'
model = dict(
    decode_head=dict(
        attn=dict(type='ExternalAttention2d', num_slots=64, normalization='softmax')
    )
)
