# EANet, half-width ResNet-18-d8 from random weights, on what tools/make_demo_data.py
# draws: 120 iterations of 8 images of 120 x 160 on a CPU, AdamW 0.002 poly.
# docs/gallery.md
_base_ = './eanet_r101_ade20k.py'
classes = (
    'wall', 'building', 'sky', 'floor', 'tree', 'road', 'grass', 'person', 'mountain',
    'car', 'sofa', 'sea', 'sand', 'boat', 'lake',
)  # fmt: skip
# M. Krzywinski's 15 colours, which stay apart for colour-blind readers.
palette = [
    (255, 182, 219), (255, 109, 182), (182, 219, 255), (146, 73, 0), (0, 73, 73),
    (0, 0, 0), (36, 255, 36), (73, 0, 146), (182, 109, 255), (109, 182, 255),
    (219, 109, 0), (0, 109, 219), (255, 255, 109), (146, 0, 0), (0, 146, 146),
]  # fmt: skip
dataset = dict(data_root='data/demo', metainfo=dict(classes=classes, palette=palette))
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 120))]
labels = dict(type='LoadAnnotations', reduce_zero_label=True)
train = [load[0], labels, load[1], dict(type='RandomFlip', prob=0.5)]
pack = dict(type='PackSegInputs')
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
train_dataloader = dict(loader, dataset=dict(dataset, pipeline=[*train, pack]))
val_dataloader = dict(loader, dataset=dict(dataset, pipeline=[*load, labels, pack]))
test_dataloader = val_dataloader
norm_cfg = dict(type='BN', requires_grad=True)
head = dict(num_classes=len(classes), norm_cfg=norm_cfg)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(120, 160)),
    backbone=dict(depth=18, stem_channels=32, base_channels=32, norm_cfg=norm_cfg),
    decode_head=dict(head, in_channels=256, attn_channels=256),
    auxiliary_head=dict(head, in_channels=128, channels=64),
)
adamw = dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.01)
optim_wrapper = dict(optimizer=adamw)
poly = dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=120, by_epoch=False)
param_scheduler = [poly]
# Interrupted, it goes on with --resume as if nothing had happened.
train_cfg = dict(type='ResumableIterBasedTrainLoop', max_iters=120, val_interval=60)
saving = dict(type='ResumableCheckpointHook', interval=60)
default_hooks = dict(logger=dict(interval=10), checkpoint=saving)
randomness = dict(seed=0)
