"""What each framework promises of its backbones, necks and heads holds for ours.

mmdet and mmpretrain publish no tests with their distributions; these say again what
their base classes promise. mmseg's own tests are run by tests/peers/run.py.
"""

import copy
import importlib
import inspect
import pickle

import pytest
import torch

pytest.importorskip('mmengine')
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attn_plugins import modules
from attn_plugins.mm.models import layers

LAYERS = set(layers.REGISTERED)
BACKBONES = ('LESAResNet', 'GSAResNet')
DCN = dict(type='DCN', deform_groups=1, fallback_on_stride=False)


@pytest.fixture(params=['mmdet', 'mmseg', 'mmpretrain'])
def models(request):
    """The registry of each framework."""
    pytest.importorskip(request.param)
    init_default_scope(request.param)
    return importlib.import_module(f'{request.param}.registry').MODELS


def backbone_of(models, name: str, depth: int = 18, **options) -> nn.Module:
    sizes = dict(stem_channels=16, base_channels=16)
    return models.build(dict(type=name, depth=depth, **sizes, **options))


def stem_of(backbone: nn.Module) -> list[nn.Module]:
    if backbone.deep_stem:
        return [backbone.stem]
    return [backbone.conv1, backbone.norm1]


# --- backbones ---------------------------------------------------------------


@pytest.mark.parametrize('out_indices', [(0,), (1, 3)])
@pytest.mark.parametrize('name', BACKBONES)
def test_maps_of_out_indices(models, name, out_indices):
    backbone = backbone_of(models, name, out_indices=out_indices)
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert isinstance(maps, tuple)
    assert [tuple(x.shape) for x in maps] == [
        (2, 16 * 2**i, 16 // 2**i, 24 // 2**i) for i in out_indices
    ]


@pytest.mark.parametrize(('frozen_stages', 'deep_stem'), [(0, True), (4, False)])
@pytest.mark.parametrize('name', BACKBONES)
def test_frozen_stages(models, name, frozen_stages, deep_stem):
    """Frozen is without gradient and in eval mode, however often it is trained."""
    options = dict(frozen_stages=frozen_stages, deep_stem=deep_stem, norm_eval=False)
    backbone = backbone_of(models, name, **options)
    backbone.train()
    parts = [
        stem_of(backbone),
        *([getattr(backbone, f'layer{i}')] for i in range(1, 5)),
    ]
    for index, part in enumerate(parts):
        is_frozen = index <= frozen_stages
        for module in part:
            norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
            assert not any(norm.training == is_frozen for norm in norms)
            gradients = {p.requires_grad for p in module.parameters()}
            assert gradients == {not is_frozen}


@pytest.mark.parametrize('name', BACKBONES)
def test_what_a_stock_resnet_refuses_is_refused(models, name):
    for options in (
        dict(depth=50, style='tensorflow'),
        dict(num_stages=0),
        dict(strides=(1,), dilations=(1, 1), num_stages=3),
    ):
        with pytest.raises(AssertionError):
            backbone_of(models, name, **options)


@pytest.mark.parametrize('models', ['mmdet'], indirect=True)
@pytest.mark.parametrize('name', BACKBONES)
def test_plugins_stand_where_they_are_asked_for(models, name):
    plugin = dict(
        cfg=dict(type='ContextBlock', ratio=1 / 4),
        stages=(False, True, True, False),
        position='after_conv3',
    )
    backbone = backbone_of(models, name, 50, plugins=[plugin])
    for index, stage in enumerate(backbone.res_layers, 1):
        for block in getattr(backbone, stage):
            assert hasattr(block, 'context_block') == (index in (2, 3))
    assert backbone(torch.rand(1, 3, 64, 64))[-1].shape == (1, 512, 2, 2)


@pytest.mark.parametrize('name', BACKBONES)
def test_with_cp_says_so_and_can_be_switched_off(models, name, monkeypatch):
    """A block's own attribute decides, as in the stock ResNet."""
    calls = []

    def checkpoint_forward(module, forward, x):
        calls.append(module)
        return forward(x)

    monkeypatch.setattr(
        'attn_plugins.mm.models.resnet.checkpoint_forward', checkpoint_forward
    )
    backbone = backbone_of(models, name, with_cp=True)
    blocks = [b for stage in backbone.res_layers for b in getattr(backbone, stage)]
    assert all(block.with_cp for block in blocks)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    backbone(x)
    assert calls == blocks
    assert all(block.with_cp for block in blocks)
    for block in blocks:
        block.with_cp = False
    backbone(x)
    assert calls == blocks


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('LESAResNet', dict(depth=18)),
        ('LESAResNet', dict(depth=50, wide=True, with_cp=True)),
        ('GSAResNet', dict(depth=50, with_cp=True)),
    ],
)
def test_a_whole_backbone_is_copied_and_pickled(models, name, options):
    check_twins(backbone_of(models, name, **options))


@pytest.mark.parametrize('models', ['mmdet', 'mmseg'], indirect=True)
def test_a_deformable_backbone_is_copied_and_pickled(models):
    options = dict(dcn=DCN, stage_with_dcn=(False, True, True, True), wide=True)
    check_twins(backbone_of(models, 'LESAResNet', 50, with_cp=True, **options))


def check_twins(backbone: nn.Module) -> None:
    """A copy and what is pickled are of the same classes, and do the same."""
    backbone.eval()
    x = torch.rand(1, 3, 33, 47)
    types = [type(module) for module in backbone.modules()]
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert [type(module) for module in twin.modules()] == types
        with torch.no_grad():
            for out, expected in zip(twin(x), backbone(x), strict=True):
                assert torch.equal(out, expected)


@pytest.mark.parametrize(
    'name', ['LESAResNet', 'GSAResNet', 'EAHead', 'EAMLP', *sorted(LAYERS)]
)
def test_registered_classes_are_where_they_say(models, name):
    """For help(), pickle and editors, which go by module and name."""
    cls = models.get(name)
    if cls is None:
        assert name in ('EAHead', 'EAMLP')
        return
    assert getattr(importlib.import_module(cls.__module__), name) is cls
    assert inspect.getdoc(cls)


@pytest.mark.parametrize('name', sorted(LAYERS - {'MultiHeadExternalAttention'}))
def test_a_registered_layer_has_the_arguments_of_its_layer(name, monkeypatch):
    """All of them, by the same names and defaults, and hands them on."""
    layer, registered = getattr(modules, name), getattr(layers, name)
    assert issubclass(registered, layer)
    signature = inspect.signature(layer)
    parameters = dict(inspect.signature(registered).parameters)
    assert parameters.pop('norm_cfg').default is None
    assert [(p.name, p.kind, p.default) for p in parameters.values()] == [
        (p.name, p.kind, p.default) for p in signature.parameters.values()
    ]
    received = {}

    def record(self, *args, **kwargs):
        received.update(signature.bind(*args, **kwargs).arguments)

    monkeypatch.setattr(layer, '__init__', record)
    given = {name: object() for name in signature.parameters if name != 'layer_options'}
    registered(**given)
    received.pop('layer_options', None)
    assert received == given


@pytest.mark.parametrize('models', ['mmseg'], indirect=True)
@pytest.mark.parametrize('name', BACKBONES)
def test_traced_backbone_is_the_same(models, name):
    backbone = backbone_of(models, name, out_indices=(2, 3))
    backbone.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, x)
        for out, expected in zip(traced(x), backbone(x), strict=True):
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('models', ['mmpretrain'], indirect=True)
@pytest.mark.parametrize('name', BACKBONES)
def test_depth_of_a_layer(models, name):
    """What layer-wise learning rates go by; attention has the depth of its block."""
    backbone = backbone_of(models, name, 50)
    stock = backbone_of(models, 'ResNet', 50)
    depths = {}
    for key, _ in stock.named_parameters():
        depths[key.rsplit('.', 2)[0]] = stock.get_layer_depth(key)
    for key, _ in backbone.named_parameters():
        block = '.'.join(key.split('.')[:2])
        if '.conv2.' in key:
            assert backbone.get_layer_depth(key) == depths[block]


# --- necks -------------------------------------------------------------------


@pytest.fixture
def maps() -> tuple[Tensor, ...]:
    """Those of a backbone: half the size and twice the channels each time."""
    return tuple(torch.rand(2, 8 * 2**i, 32 // 2**i, 40 // 2**i) for i in range(4))


@pytest.mark.parametrize('models', ['mmdet'], indirect=True)
@pytest.mark.parametrize('stages', [(-1,), (0, 2)])
def test_neck_keeps_number_and_shapes_of_the_maps(models, maps, stages):
    config = dict(type='EANeck', in_channels=[8, 16, 32, 64], stages=stages)
    neck = models.build({**config, 'norm_cfg': dict(type='BN')})
    outs = neck(maps)
    assert isinstance(outs, tuple)
    assert [out.shape for out in outs] == [x.shape for x in maps]
    sum(out.square().mean() for out in outs).backward()
    assert not [name for name, p in neck.named_parameters() if p.grad is None]
    twin = pickle.loads(pickle.dumps(neck.eval()))
    for out, expected in zip(twin(maps), neck(maps), strict=True):
        assert torch.equal(out, expected)


@pytest.mark.parametrize('models', ['mmdet'], indirect=True)
def test_neck_before_a_feature_pyramid(models, maps):
    channels = [8, 16, 32, 64]
    necks = [
        dict(type='EANeck', in_channels=channels),
        dict(type='FPN', in_channels=channels, out_channels=16, num_outs=5),
    ]
    neck = models.build(necks)
    neck.init_weights()
    outs = neck(maps)
    assert [out.shape[-1] for out in outs] == [40, 20, 10, 5, 3]
    assert all(out.shape[:2] == (2, 16) for out in outs)


# --- decode heads ------------------------------------------------------------


@pytest.fixture
def heads():
    """Makes the same head twice: mmseg's FCNHead, whose contract it is, and EAHead."""
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    models = importlib.import_module('mmseg.registry').MODELS

    def make(**options) -> list[nn.Module]:
        defaults = dict(in_channels=8, channels=4, num_classes=5)
        options = {**defaults, **options}
        return [
            models.build(dict(type='FCNHead', concat_input=False, **options)),
            models.build(dict(type='EAHead', attn_channels=8, **options)),
        ]

    return make


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(in_index=2, in_channels=32),
        dict(in_index=[0, 1], in_channels=[8, 16], input_transform='resize_concat'),
        dict(align_corners=True),
        dict(dropout_ratio=0),
        dict(num_classes=2, out_channels=1, threshold=0.4),
        dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='GELU')),
    ],
    ids=['plain', 'index', 'concat', 'corners', 'no dropout', 'binary', 'norm'],
)
def test_head_takes_the_options_of_a_stock_head(heads, maps, options):
    stock, ours = heads(**options)
    for name in (
        'in_channels',
        'in_index',
        'align_corners',
        'out_channels',
        'threshold',
    ):
        assert getattr(ours, name) == getattr(stock, name)
    assert (ours.dropout is None) == (stock.dropout is None)
    maps = maps[2:] if options.get('in_index') is None else maps
    inputs = maps if 'in_index' in options else [torch.rand(2, 8, 6, 7)]
    assert ours(inputs).shape == stock(inputs).shape


@pytest.mark.parametrize(
    'options',
    [
        dict(loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
        dict(
            loss_decode=[
                dict(type='CrossEntropyLoss', loss_name='loss_a'),
                dict(type='DiceLoss', loss_name='loss_b'),
            ]
        ),
        dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=20)),
        dict(ignore_index=0),
    ],
    ids=['weight', 'two', 'sampler', 'ignore'],
)
def test_head_has_the_losses_of_a_stock_head(heads, options):
    from mmseg.structures import SegDataSample

    label = torch.randint(0, 5, (1, 12, 14))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for _ in range(2)]
    logits = torch.randn(2, 5, 6, 7)
    expected, found = (head.loss_by_feat(logits, samples) for head in heads(**options))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    (_, ours) = heads(**options)
    losses = ours.loss([torch.rand(2, 8, 6, 7)], samples, {})
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert not [name for name, p in ours.named_parameters() if p.grad is None]


def test_head_predicts_at_the_size_of_the_image(heads):
    for head in heads():
        metas = [dict(img_shape=(24, 28)), dict(img_shape=(24, 28))]
        assert head.predict([torch.rand(2, 8, 6, 7)], metas, {}).shape == (2, 5, 24, 28)


def test_head_refuses_what_a_stock_head_refuses(heads):
    for options in (
        dict(in_channels=[8, 16]),
        dict(in_index=[0, 1]),
        dict(input_transform='concat'),
        dict(input_transform='resize_concat', in_channels=[8, 16], in_index=[0]),
    ):
        with pytest.raises(AssertionError):
            heads(**options)[1]
    with pytest.raises(TypeError):
        heads(loss_decode=['CrossEntropyLoss'])
    with pytest.raises(ValueError, match='out_channels'):
        heads(out_channels=3)
