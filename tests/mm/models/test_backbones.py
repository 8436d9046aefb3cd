"""LESAResNet and GSAResNet: what is swapped, and what stays the framework's.

The full matrix runs in mmdet. mmseg's ResNet is the same code; what the others must do
as well stands here with the fixture ``each``, and in test_host_contracts.py.
"""

import copy
import importlib
import logging
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip('mmengine')
from meta import on_meta
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.modules.gsa import GlobalSelfAttention
from attn_plugins.modules.lesa import LESA2d

NAMES = ('LESAResNet', 'GSAResNet')
NONE = (False,) * 4
DCN = dict(type='DCN', deform_groups=1, fallback_on_stride=False)
FULL_WIDTH = dict(stem_channels=64, base_channels=64)
CLASSIFIER = 2048 * 1000 + 1000


@pytest.fixture(autouse=True)
def _quiet():
    """Initialisation logs two lines for every parameter."""
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)


def registry_of(framework: str):
    pytest.importorskip(framework)
    init_default_scope(framework)
    return importlib.import_module(f'{framework}.registry').MODELS


@pytest.fixture
def models():
    """mmdet's registry."""
    return registry_of('mmdet')


@pytest.fixture(params=['mmdet', 'mmseg', 'mmpretrain'])
def each(request):
    """The registry of each framework."""
    return registry_of(request.param)


def build(models, name: str, depth: int = 50, **options) -> nn.Module:
    """A quarter of the usual width, and all four maps."""
    defaults = dict(out_indices=(0, 1, 2, 3), stem_channels=16, base_channels=16)
    return models.build(dict(type=name, depth=depth, **{**defaults, **options}))


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 33, 47)


def millions(module: nn.Module, extra: int = 0) -> float:
    return round((sum(p.numel() for p in module.parameters()) + extra) / 1e6, 3)


def layers_of(backbone: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, (LESA2d, GlobalSelfAttention))
    }


def step(backbone: nn.Module, x: torch.Tensor) -> None:
    """Runs a backward pass that reaches all outputs with a gradient of their own."""
    loss = sum((out * torch.randn_like(out)).sum() for out in backbone(x))
    loss.backward()


# What stays the framework's


@pytest.mark.parametrize(('name', 'depth'), [('LESAResNet', 50), ('GSAResNet', 18)])
def test_without_a_stage_it_is_the_stock_resnet_bit_for_bit(each, name, depth):
    built = []
    for kind, options in (('ResNet', {}), (name, dict(stage_with_attn=NONE))):
        torch.manual_seed(1)
        backbone = build(each, kind, depth, **options)
        backbone.init_weights()
        built.append((backbone, torch.get_rng_state()))
    (stock, stock_state), (ours, our_state) = built
    assert torch.equal(stock_state, our_state)
    assert stock.state_dict().keys() == ours.state_dict().keys()
    for key, value in stock.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key
    x = image()
    for backbone in (stock, ours):
        backbone.train()
    for out, expected in zip(ours(x), stock(x), strict=True):
        assert torch.equal(out, expected)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(style='caffe'),
        dict(deep_stem=True, avg_down=True),
        dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        dict(strides=(1, 2, 2, 1)),
    ],
    ids=['plain', 'caffe', 'v1d', 'dilated', 'last stride 1'],
)
@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('name', NAMES)
def test_maps_have_the_sizes_of_the_stock_resnet(models, name, depth, options):
    if depth == 18:
        options = {k: v for k, v in options.items() if k != 'style'}
    stock = build(models, 'ResNet', depth, **options)
    ours = build(models, name, depth, **options)
    for backbone in (stock, ours):
        backbone.eval()
    x = image(1)
    with torch.no_grad():
        shapes = [out.shape for out in ours(x)]
        assert shapes == [out.shape for out in stock(x)]


@pytest.mark.parametrize(
    ('name', 'depth', 'blocks', 'layers'),
    [
        ('LESAResNet', 34, [3, 4, 6, 3], 5 + 3),
        ('LESAResNet', 101, [3, 4, 23, 3], 22 + 3),
        ('LESAResNet', 152, [3, 8, 36, 3], 35 + 3),
        ('GSAResNet', 34, [3, 4, 6, 3], 16),
        ('GSAResNet', 38, [2, 3, 5, 2], 12),
        ('GSAResNet', 101, [3, 4, 23, 3], 33),
    ],
)
def test_other_depths(models, name, depth, blocks, layers):
    with on_meta():
        backbone = build(models, name, depth)
    assert [len(getattr(backbone, layer)) for layer in backbone.res_layers] == blocks
    assert len(layers_of(backbone)) == layers


@pytest.mark.parametrize('name', NAMES)
def test_frozen_stages_and_norm_eval(each, name):
    backbone = build(each, name, 18, frozen_stages=3, norm_eval=True)
    for _ in range(2):
        for layer in ('conv1', 'layer1', 'layer2', 'layer3'):
            module = getattr(backbone, layer)
            assert not any(p.requires_grad for p in module.parameters())
        assert all(p.requires_grad for p in backbone.layer4.parameters())
        backbone.train()
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert not any(norm.training for norm in norms)
    layers = layers_of(backbone)
    assert not any(v.training for k, v in layers.items() if k.startswith('layer3'))
    assert all(v.training for k, v in layers.items() if k.startswith('layer4'))
    before = copy.deepcopy(backbone.state_dict())
    backbone(image())
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    'norm_cfg', [dict(type='BN', eps=1e-3, requires_grad=False), dict(type='SyncBN')]
)
@pytest.mark.parametrize('name', NAMES)
def test_norms_are_those_of_the_config(models, name, norm_cfg):
    backbone = build(models, name, 18, norm_cfg=norm_cfg, norm_eval=False)
    norms = [
        module
        for layer in layers_of(backbone).values()
        for module in layer.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    assert norms
    if norm_cfg['type'] == 'BN':
        assert all(norm.eps == 1e-3 for norm in norms)
        assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    else:
        assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        step(revert_sync_batchnorm(backbone).train() or backbone, image())


# What is swapped


def test_lesa_takes_the_places_of_the_paper(each):
    backbone = build(each, 'LESAResNet')
    names = [f'layer3.{i}.conv2' for i in range(1, 6)]
    names += [f'layer4.{i}.conv2' for i in range(3)]
    assert list(layers_of(backbone)) == names
    assert isinstance(backbone.layer3[0].conv2, nn.Conv2d)
    assert [layer.stride for layer in layers_of(backbone).values()] == [1] * 5 + [
        2,
        1,
        1,
    ]
    sizes = [64] * 5 + [64, 32, 32]
    assert reference_sizes(backbone) == [(size, size) for size in sizes]
    for block in (*list(backbone.layer3)[1:], *backbone.layer4):
        assert isinstance(block.norm2, nn.Identity)
    assert isinstance(backbone.layer3[0].norm2, nn.BatchNorm2d)


@pytest.mark.parametrize('variant', ['static', 'attention', 'augmentation'])
def test_other_variants_keep_the_norm_of_the_block(models, variant):
    backbone = build(models, 'LESAResNet', attn=dict(variant=variant))
    assert isinstance(backbone.layer4[0].norm2, nn.BatchNorm2d)
    with torch.no_grad():
        assert backbone(image())[-1].shape == (2, 512, 2, 2)


def test_gsa_takes_all_places_and_keeps_the_norms(each):
    backbone = build(each, 'GSAResNet')
    assert len(layers_of(backbone)) == 16
    for name in backbone.res_layers:
        for index, block in enumerate(getattr(backbone, name)):
            assert block.conv2.stride == (2 if index == 0 and name != 'layer1' else 1)
            assert isinstance(block.norm2, nn.BatchNorm2d)


@pytest.mark.parametrize('name', NAMES)
def test_basic_blocks_lose_their_second_convolution(models, name):
    backbone = build(models, name, 18)
    block = backbone.layer4[0]
    assert isinstance(block.conv1, nn.Conv2d)
    assert block.conv1.stride == (2, 2)
    assert block.conv2.stride == 1
    assert isinstance(block.norm2, nn.Identity) == (name == 'LESAResNet')


def test_stages_and_first_convolutions_can_be_chosen(models):
    backbone = build(
        models,
        'LESAResNet',
        stage_with_attn=(False, True, False, True),
        keep_first_conv=(False, False, False, True),
    )
    names = [f'layer2.{i}.conv2' for i in range(4)]
    assert list(layers_of(backbone)) == [*names, 'layer4.1.conv2', 'layer4.2.conv2']
    backbone = build(models, 'GSAResNet', stage_with_attn=(False, False, True, True))
    assert len(layers_of(backbone)) == 9
    backbone = build(
        models,
        'LESAResNet',
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        stage_with_attn=(False, True),
        keep_first_conv=(True, True),
    )
    assert list(layers_of(backbone)) == names[1:]


def reference_sizes(backbone: nn.Module) -> list[tuple[int, int]]:
    """Heights and widths that the position tables are laid out for, in order."""
    sizes = []
    for layer in layers_of(backbone).values():
        tables = [p for n, p in layer.named_parameters() if 'rel_' in n]
        sizes.append(tuple((len(table) + 1) // 2 for table in tables))
    return sizes


@pytest.mark.parametrize(
    ('options', 'stage_3', 'stage_4'),
    [
        (dict(), 64, [64, 32, 32]),
        (dict(rel_pos_input_size=1280), 80, [80, 40, 40]),
        (dict(rel_pos_input_size=225), 15, [15, 8, 8]),
        (dict(rel_pos_input_size=224, strides=(1, 2, 2, 1)), 14, [14] * 3),
        (dict(style='caffe'), 64, [32, 32, 32]),
        (dict(deep_stem=True, avg_down=True), 64, [64, 32, 32]),
        (dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)), 128, [128] * 3),
    ],
    ids=['1024', '1280', '225', 'classifier', 'caffe', 'v1d', 'dilated'],
)
def test_tables_are_laid_out_for_the_incoming_map(models, options, stage_3, stage_4):
    with on_meta():
        sizes = reference_sizes(build(models, 'LESAResNet', **options))
    assert sizes == [(stage_3, stage_3)] * 5 + [(size, size) for size in stage_4]


def test_tables_of_basic_blocks_gsa_and_oblong_images(models):
    assert reference_sizes(build(models, 'LESAResNet', 18)) == [
        (64, 64),
        (32, 32),
        (32, 32),
    ]
    sizes = reference_sizes(build(models, 'GSAResNet'))
    assert sizes == [
        (size, size) for size in [56] * 4 + [28] * 3 + [28] + [14] * 5 + [14] + [7] * 2
    ]
    backbone = build(models, 'LESAResNet', rel_pos_input_size=(512, 1000))
    assert reference_sizes(backbone)[0] == (32, 63)


# Training


@pytest.mark.parametrize(
    ('name', 'depth', 'options'),
    [
        ('LESAResNet', 18, {}),
        ('LESAResNet', 50, dict(wide=True)),
        ('GSAResNet', 38, {}),
    ],
)
def test_with_cp_changes_nothing_but_memory(each, name, depth, options):
    """Every parameter's gradient, and running statistics, which move once."""
    options = dict(options, norm_eval=False, base_channels=8)
    plain = build(each, name, depth, attn=dict(num_heads=2), **options).double()
    saving = build(
        each, name, depth, attn=dict(num_heads=2), with_cp=True, **options
    ).double()
    saving.load_state_dict(plain.state_dict())
    x = image().double()
    for backbone in (plain, saving):
        backbone.train()
        torch.manual_seed(2)
        step(backbone, x.clone().requires_grad_())
    for (key, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert p.grad is not None, key
        assert_close(q.grad, p.grad, msg=key)
    for key, value in plain.state_dict().items():
        assert_close(saving.state_dict()[key], value, msg=key)
        if key.endswith('num_batches_tracked') and 'conv2' in key:
            assert value == 1


# Initialisation and checkpoints


@pytest.mark.parametrize('name', NAMES)
def test_layers_keep_their_initialisation(each, name):
    """The parent's Kaiming would give 3x3 and 1x1 weights another spread."""
    backbone = build(each, name)
    drawn = {k: v.std() for k, v in backbone.named_parameters() if v.ndim == 4}
    backbone.init_weights()
    changed = {
        key
        for key, value in backbone.named_parameters()
        if value.ndim == 4 and abs(value.std() / drawn[key] - 1) > 0.05
    }
    assert 'layer1.0.conv1.weight' in changed
    layers = tuple(layers_of(backbone))
    assert not [key for key in changed if key.startswith(layers)]


@pytest.mark.parametrize(
    ('name', 'depth', 'init_cfg'),
    [
        ('LESAResNet', 18, None),
        ('LESAResNet', 18, dict(type='Kaiming', layer='Conv2d')),
        ('LESAResNet', 50, None),
        ('GSAResNet', 18, None),
    ],
)
def test_zero_init_residual(each, name, depth, init_cfg):
    """As in the stock ResNet: residual blocks start as the identity."""
    options = {} if init_cfg is None else dict(init_cfg=init_cfg)
    stock = build(each, 'ResNet', depth, **options)
    ours = build(each, name, depth, **options)
    for backbone in (stock, ours):
        backbone.init_weights()
        backbone.eval()
    x = torch.randn(1, stock.layer4[1].conv1.in_channels, 3, 4).relu()
    with torch.no_grad():
        same = torch.equal(stock.layer4[1](x), x)
        assert torch.equal(ours.layer4[1](x), x) == same


@pytest.mark.parametrize('name', NAMES)
def test_pretrained_weights_are_loaded(each, name, tmp_path):
    source = build(each, name, 18)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    file = tmp_path / 'weights.pth'
    torch.save(source.state_dict(), file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    backbone = build(each, name, 18, init_cfg=init_cfg)
    backbone.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_of_another_reference_size(models, name):
    source = build(models, name, 18, rel_pos_input_size=256)
    target = build(models, name, 18, rel_pos_input_size=512)
    with pytest.warns(UserWarning, match='from 8 to 16 positions: layer4') as record:
        target.load_state_dict(source.state_dict())
    assert len(record) == 1
    assert 'layer' in str(record[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        target.load_state_dict(
            build(models, name, 18, rel_pos_input_size=512).state_dict()
        )


def test_a_flat_table_of_another_size_is_refused(models):
    options = dict(attn=dict(position='flat'), strides=(1, 2, 2, 1))
    source = build(models, 'LESAResNet', rel_pos_input_size=224, **options)
    target = build(models, 'LESAResNet', rel_pos_input_size=256, **options)
    with pytest.raises(ValueError, match=r'layer3.1.conv2.context.rel is .*391.*511'):
        target.load_state_dict(source.state_dict())


# Wide and deformable


def test_wide_bottlenecks(each):
    backbone = build(each, 'LESAResNet', wide=True)
    block = backbone.layer3[0]
    assert block.conv2.weight.shape == (128, 128, 3, 3)
    assert (block.conv1.out_channels, block.conv3.out_channels) == (128, 256)
    assert block.norm1.num_features == block.norm2.num_features == 128
    assert backbone.layer4[2].conv2.in_channels == 256
    backbone.init_weights()
    assert not block.norm3.weight.any()  # zero_init_residual
    backbone.eval()
    with torch.no_grad():
        shapes = [out.shape[1:] for out in backbone(image(1))]
    assert shapes == [(64, 9, 12), (128, 5, 6), (256, 3, 3), (512, 2, 2)]


def test_wide_with_deformable_convolutions_and_plugins(models):
    plugins = [
        dict(
            cfg=dict(type='ContextBlock', ratio=1 / 4, postfix=f'_{i}'),
            position=f'after_conv{i}',
            stages=(False, True, True, False),
        )
        for i in (1, 2, 3)
    ]
    backbone = build(
        models,
        'LESAResNet',
        wide=True,
        dcn=DCN,
        stage_with_dcn=(False, True, True, True),
        plugins=plugins,
        norm_eval=False,
        with_cp=True,
    )
    assert backbone.layer2[0].conv2.weight.shape == (64, 64, 3, 3)
    assert backbone.layer2[0].conv2.conv_offset.weight.shape == (18, 64, 3, 3)
    backbone.train()
    step(backbone, image())
    assert not [n for n, p in backbone.named_parameters() if p.grad is None]


def test_the_local_term_is_deformable_where_the_stage_is(models):
    config = dict(DCN)
    backbone = models.get('LESAResNet')(
        50,
        stem_channels=16,
        base_channels=16,
        dcn=config,
        stage_with_dcn=(False, True, True, False),
    )
    assert config == DCN  # stock blocks pop keys of what they are given
    assert hasattr(backbone.layer2[1].conv2, 'conv_offset')
    assert hasattr(backbone.layer3[0].conv2, 'conv_offset')
    assert not hasattr(backbone.layer4[0].conv2.local.conv, 'conv_offset')
    conv = backbone.layer3[1].conv2.local.conv
    assert (conv.groups, conv.deform_groups) == (8, 1)
    assert conv.weight.shape == (64, 8, 3, 3)
    assert conv.conv_offset.weight.shape == (18, 64, 3, 3)
    spread = conv.weight.std()
    backbone.init_weights()
    assert not conv.conv_offset.weight.any()
    assert not conv.conv_offset.bias.any()
    assert_close(conv.weight.std(), spread, rtol=0.05, atol=0)


@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_deformable_local_term_equals_the_plain_one_at_zero_offsets(models, kind):
    """On maps smaller than the kernel too; DCNv2 starts with half of the weights."""
    deformable = build(
        models,
        'LESAResNet',
        dcn=dict(DCN, type=kind),
        stage_with_dcn=(False, False, False, True),
    ).layer4[1]
    plain = build(models, 'LESAResNet').layer4[1]
    plain.load_state_dict(deformable.state_dict(), strict=False)
    if kind == 'DCNv2':
        plain.conv2.local.conv.weight.data /= 2
    for size in ((1, 1), (1, 5), (2, 2), (7, 2), (4, 5)):
        x = torch.randn(2, 512, *size)
        for block in (plain, deformable):
            block.eval()
        with torch.no_grad():
            assert_close(deformable(x), plain(x), rtol=1e-4, atol=1e-4)


# Parameters, as the papers print them or their released code has them


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(attn=dict(position='flat'), wide=True), 61.146),
        (dict(stage_with_attn=NONE, wide=True), 68.883),
    ],
    ids=['LESA-WRN50', 'WRN50'],
)
def test_parameters_of_wide_classifiers(each, options, expected):
    """Those of the other classifiers are counted from their configs."""
    sizes = dict(strides=(1, 2, 2, 1), rel_pos_input_size=224, **FULL_WIDTH)
    with on_meta():
        backbone = build(each, 'LESAResNet', **sizes, **options)
    assert millions(backbone, CLASSIFIER) == expected


# Mistakes


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('LESAResNet', dict(depth=38), 'depth must be one of 18, 34, 50, 101, 152, go'),
        ('GSAResNet', dict(depth=152), 'depth must be one of 18, 34, 38, 50, 101, got'),
        (
            'LESAResNet',
            dict(stage_with_attn=(True, True)),
            r'stage_with_attn must hold one bool .* num_stages=4 .* got \(True, True\)',
        ),
        (
            'LESAResNet',
            dict(keep_first_conv=True),
            'keep_first_conv must hold one bool',
        ),
        ('GSAResNet', dict(stage_with_attn=4), 'stage_with_attn must hold .* got 4'),
        (
            'LESAResNet',
            dict(attn=dict(num_head=4)),
            r"unknown option 'num_head', did you mean 'num_heads'\?",
        ),
        ('GSAResNet', dict(attn=dict(stride=2)), "the unknown option 'stride'"),
        ('GSAResNet', dict(attn=dict(num_heads=5)), 'in_channels.*num_heads=5.*16'),
        ('LESAResNet', dict(attn=dict(num_heads=5)), 'channels.*num_heads=5.*64'),
        ('LESAResNet', dict(attn=dict(variant='dinamic')), 'variant must be one of'),
        ('LESAResNet', dict(depth=18, wide=True), 'use depth 50 or more'),
        (
            'GSAResNet',
            dict(rel_pos_input_size=0),
            'rel_pos_input_size must be a positive integer',
        ),
        (
            'LESAResNet',
            dict(rel_pos_input_size=(1, 2, 3)),
            r'rel_pos_input_size must be .* got \(1, 2, 3\)',
        ),
    ],
)
def test_mistakes_are_named(models, name, options, message):
    with pytest.raises(ValueError, match=message):
        build(models, name, **options)


def test_deformable_needs_bottlenecks_and_operators(models, monkeypatch):
    options = dict(dcn=DCN, stage_with_dcn=(False, True, True, True))
    with pytest.raises(ValueError, match='bottlenecks of depth 50 or more'):
        build(models, 'LESAResNet', 18, **options)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    with pytest.raises(ValueError, match=r'operators of mmcv.*ops link'):
        build(models, 'LESAResNet', **options)


def test_wide_resnet_takes_torchvisions_weights(models):
    """Every key and shape of `torchvision://wide_resnet50_2`, and the same maps."""
    torchvision = pytest.importorskip('torchvision')
    source = torchvision.models.wide_resnet50_2().eval()
    backbone = build(
        models, 'LESAResNet', wide=True, stage_with_attn=NONE, **FULL_WIDTH
    )
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith('fc')}
    backbone.load_state_dict(weights)
    backbone.eval()
    stem = nn.Sequential(source.conv1, source.bn1, source.relu, source.maxpool)
    x = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        expected = source.layer2(source.layer1(stem(x)))
        assert_close(backbone(x)[1], expected)


@pytest.mark.parametrize('name', NAMES)
def test_three_stages_as_in_c4_detectors(models, name):
    """The defaults follow `num_stages`."""
    stages = dict(strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    backbone = build(models, name, num_stages=3, **stages)
    (out,) = backbone(image())
    assert out.shape == (2, 256, 3, 3)
