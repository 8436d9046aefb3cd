# mask-rcnn_lesa-r50-dcn_coco_20e.py at the stock scale (1333, 800) with aspect ratios
# kept, which the released code cannot run (norm_eval=True, frozen_stages=1). No row in
# the paper. 4 GPUs x 2 images, 20 epochs (16, 19), SGD 0.01.
# docs/lesa.md#from-a-classifier-to-a-detector
_base_ = 'mmdet::dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(backbone=dict(type='LESAResNet', rel_pos_input_size=1344))
train_cfg = dict(max_epochs=20)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=20,
        by_epoch=True,
        milestones=[16, 19],
        gamma=0.1,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
auto_scale_lr = dict(base_batch_size=8)
