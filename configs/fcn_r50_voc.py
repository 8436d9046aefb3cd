# FCN, ResNet-50-d16, Pascal VOC 2012 aug: EA paper, Table I (75.7 mIoU printed), the
# recipe of eanet_r50_voc_os16.py. It is EANet's own head without attention.
_base_ = './eanet_r50_voc_os16.py'
model = dict(decode_head=dict(attn=None))
