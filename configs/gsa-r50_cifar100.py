# GSA-ResNet-50, CIFAR-100, from the ImageNet weights of gsa-r50_in1k.py: GSA paper,
# appendix A, Figure 3. 1 GPU x 128 images resized to 224 x 224, 10k iterations, SGD
# 5e-3, a tenth of it after every 3k.
# docs/gsa.md
_base_ = './gsa-r50_in1k.py'
data_preprocessor = dict(num_classes=100, to_rgb=False)  # CIFAR100 loads RGB
resize = dict(type='Resize', scale=224)
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
pack = dict(type='PackInputs')
data = dict(_delete_=True, type='CIFAR100', data_root='data/cifar100')
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/gsa-r50_in1k/epoch_90.pth',
            prefix='backbone.',
        )
    ),
    head=dict(num_classes=100),
)
train_dataloader = dict(
    batch_size=128, dataset=dict(data, split='train', pipeline=[resize, flip, pack])
)
val_dataloader = dict(
    batch_size=128, dataset=dict(data, split='test', pipeline=[resize, pack])
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-3))
param_scheduler = dict(
    _delete_=True,
    type='MultiStepLR',
    by_epoch=False,
    milestones=[3000, 6000, 9000],
    gamma=0.1,
)
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=10000, val_interval=1000)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=128)
