# EANet, softmax over slots in place of double normalisation: EA paper, Table I (75.3
# mIoU printed), the recipe of eanet_r50_voc_os16.py.
_base_ = './eanet_r50_voc_os16.py'
model = dict(
    decode_head=dict(
        attn=dict(type='ExternalAttention2d', num_slots=64, normalization='softmax')
    )
)
