# EANet, ResNet-101-d8, Pascal VOC 2012, second phase: EA paper, section 4.5 (Table V,
# 84.0 mIoU printed, with --tta). 4 GPUs x 4 images, 15k iterations on trainval, a tenth
# of the first phase's learning rate (not printed). Validation images are trained on.
# docs/external_attention.md#eahead
_base_ = './eanet_r101_voc.py'
load_from = 'work_dirs/eanet_r101_voc/iter_45000.pth'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='PascalVOCDataset',
        data_root={{_base_.data_root}},
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/trainval.txt',
        pipeline={{_base_.train_pipeline}},
    )
)
# The checkpoint above holds the whole network.
model = dict(pretrained=None)
optim_wrapper = dict(optimizer=dict(lr=0.0009))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=15000, by_epoch=False)
]
train_cfg = dict(max_iters=15000, val_interval=1500)
default_hooks = dict(checkpoint=dict(interval=1500))
