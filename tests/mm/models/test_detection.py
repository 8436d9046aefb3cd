"""External attention in mmdet: over any backbone, and inside its ResNet's blocks."""

import pytest
import torch

pytest.importorskip('mmdet')
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.modules import ExternalAttention2d

BN = dict(type='BN', requires_grad=True)
SWIN = dict(
    type='SwinTransformer',
    embed_dims=24,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    window_size=4,
)


@pytest.fixture(autouse=True)
def _mmdet_scope():
    init_default_scope('mmdet')


@pytest.mark.parametrize(
    ('backbone', 'channels'),
    [
        (dict(type='ResNet', depth=18), [64, 128, 256, 512]),
        (SWIN, [24, 48, 96, 192]),
    ],
    ids=['resnet', 'swin'],
)
def test_neck_over_any_backbone_and_before_fpn(backbone, channels):
    body = MODELS.build(backbone)
    neck = MODELS.build(
        [
            dict(type='EANeck', in_channels=channels, num_slots=8, norm_cfg=BN),
            dict(type='FPN', in_channels=channels, out_channels=16, num_outs=5),
        ]
    )
    maps = neck(body(torch.rand(2, 3, 33, 47)))
    assert [x.shape[1] for x in maps] == [16] * 5
    sum(x.sum() for x in maps).backward()
    layer = neck[0].layers['3']
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize(
    ('stage', 'position'),
    [(0, 'after_conv1'), (1, 'after_conv2'), (2, 'after_conv3'), (3, 'after_conv3')],
)
def test_plugin_in_any_stage_and_position(stage, position):
    stages = tuple(index == stage for index in range(4))
    plugin = dict(
        cfg=dict(type='ExternalAttention2d', num_slots=4),
        stages=stages,
        position=position,
    )
    small = dict(stem_channels=16, base_channels=16)
    backbone = MODELS.build(dict(type='ResNet', depth=50, plugins=[plugin], **small))
    layers = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, ExternalAttention2d)
    ]
    assert len(layers) == (3, 4, 6, 3)[stage]
    assert all(name.startswith(f'layer{stage + 1}.') for name in layers)
    assert len(backbone(torch.rand(1, 3, 33, 47))) == 4
