"""Layers with drawn arguments and maps: a correct result or a ValueError, nothing else.

What is correct is computed in another way: by the specification, or from the parts of
the batch, or from the same numbers in another memory layout.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from drawn import SIZES, arguments, result_or_value_error, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from attn_plugins.functional import reference
from attn_plugins.modules import (
    EANeck,
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
)

NORMALIZATIONS = st.sampled_from(['double', 'softmax'])
HEADS = st.sampled_from([1, 1, 2, 3])
STRIDES = st.sampled_from([1, 1, 2])
FLAGS = st.booleans()
EPS = st.sampled_from([0.0, 0.0, 1e-9])
REL_POS = st.one_of(SIZES, st.tuples(SIZES, SIZES))


def build(kind: type, options: dict, possible: bool):
    layer = result_or_value_error(lambda: kind(**options), possible)
    if layer is None:
        return None
    layer.double().eval()
    # As after some training: neither zero nor one.
    for name, tensor in layer.state_dict().items():
        if name.endswith(('running_mean', 'running_var')):
            tensor.copy_(torch.linspace(0.5, 1.5, len(tensor)))
    return layer


def draw_map(data, channels: int) -> tuple[torch.Tensor, bool]:
    """Draws a map, and whether a layer of that many channels takes it."""
    wrong = data.draw(st.sampled_from([None] * 6 + ['C', 'H', 'W', 'ndim', 'dtype']))
    batch = data.draw(st.integers(0, 3))
    height, width = data.draw(SIZES), data.draw(SIZES)
    if wrong == 'H':
        height = 0
    elif wrong == 'W':
        width = 0
    shape = [batch, channels + (wrong == 'C'), height, width]
    if wrong == 'ndim':
        shape = data.draw(st.sampled_from([shape[:3], [*shape, 1], shape[1:3]]))
    x = data.draw(tensors(*shape))
    return (x.long() if wrong == 'dtype' else x), wrong is None


def check_map_layer(data, layer, channels: int, specification=None, stride: int = 1):
    """Checks a layer that keeps the shape of maps, but for a stride."""
    x, possible = draw_map(data, channels)
    with torch.no_grad():
        out = result_or_value_error(lambda: layer(x), possible)
        if out is None:
            return
        batch, _, height, width = x.shape
        expected = (batch, channels, *(math.ceil(s / stride) for s in (height, width)))
        assert out.shape == expected
        assert out.isfinite().all()
        # Attention is within an image: each by itself gives the same.
        alone = [layer(image[None].clone()) for image in x]
        if alone:
            assert_close(out, torch.cat(alone))
            if specification and height * width <= 12:  # it is slow
                assert_close(out, specification(layer, x), rtol=1e-6, atol=1e-9)


def external_attention(layer: ExternalAttention2d, x: torch.Tensor) -> torch.Tensor:
    value = layer.key.weight if layer.value is None else layer.value.weight.T
    attended = reference.external_attention_block(
        x.flatten(2).mT,
        layer.query.weight,
        layer.query.bias,
        layer.key.weight,
        value,
        layer.out.weight,
        normalization=layer.normalization,
        eps=layer.eps,
    )
    return F.relu(x + layer.norm(attended.mT.reshape(x.shape)))


@given(st.data())
def test_external_attention(data):
    options, wrong = data.draw(
        arguments(
            in_channels=SIZES,
            num_slots=SIZES,
            mid_channels=SIZES,
            normalization=NORMALIZATIONS,
            eps=EPS,
            tied=FLAGS,
            order=st.sampled_from(['auto', 'folded', 'plain']),
        )
    )
    possible = wrong is None or (wrong == 'eps' and options['eps'] in (0, 2.5))
    if options['eps'] and options['normalization'] == 'softmax':
        possible = False
    layer = build(ExternalAttention2d, options, possible)
    if layer:
        check_map_layer(data, layer, options['in_channels'], external_attention)


def self_attention(layer: SelfAttention2d, x: torch.Tensor) -> torch.Tensor:
    heads = []
    for q, k, v in zip(
        *(
            t.chunk(layer.num_heads, -1)
            for t in layer.qkv(x.flatten(2).mT).chunk(3, -1)
        ),
        strict=True,
    ):
        scale = q.shape[-1] ** -0.5
        heads.append(
            reference.self_attention(
                q, k, v, scale=scale, normalization=layer.normalization
            )
        )
    out = layer.out(torch.cat(heads, -1)).mT
    return F.relu(x + layer.norm(out.reshape(x.shape)))


@given(st.data())
def test_self_attention(data):
    options, wrong = data.draw(
        arguments(in_channels=SIZES, num_heads=HEADS, normalization=NORMALIZATIONS)
    )
    possible = not wrong and options['in_channels'] % options['num_heads'] == 0
    layer = build(SelfAttention2d, options, possible)
    if layer:
        check_map_layer(data, layer, options['in_channels'], self_attention)


@given(st.data())
def test_multi_head_external_attention(data):
    options, wrong = data.draw(
        arguments(
            in_channels=SIZES,
            num_heads=HEADS,
            num_slots=SIZES,
            mid_channels=SIZES.map(lambda size: 2 * size),
            normalization=NORMALIZATIONS,
            eps=EPS,
            bias=FLAGS,
        )
    )
    possible = wrong is None or (wrong == 'eps' and options['eps'] in (0, 2.5))
    if options['eps'] and options['normalization'] == 'softmax':
        possible = False
    if possible and options['mid_channels'] % options['num_heads']:
        possible = False
    layer = build(MultiHeadExternalAttention, options, possible)
    if not layer:
        return
    channels = options['in_channels']
    wrong = data.draw(st.sampled_from([None] * 4 + ['C', 'ndim', 'dtype']))
    shape = [data.draw(st.integers(0, 3)), data.draw(st.integers(0, 6)), channels]
    shape[2] += wrong == 'C'
    x = data.draw(tensors(*(shape[1:] if wrong == 'ndim' else shape)))
    x = x.long() if wrong == 'dtype' else x
    with torch.no_grad():
        out = result_or_value_error(lambda: layer(x), wrong is None)
        if out is None:
            return
        assert out.shape == x.shape
        if x.numel():
            attended = reference.multi_head_external_attention(
                layer.query(x),
                layer.key.weight,
                layer.key.bias,
                layer.value.weight.T,
                layer.value.bias,
                num_heads=layer.num_heads,
                normalization=layer.normalization,
                eps=layer.eps,
            )
            assert_close(out, layer.out(attended), rtol=1e-6, atol=1e-9)


@given(st.data())
def test_neck(data):
    channels = data.draw(st.lists(SIZES, min_size=1, max_size=4))
    options, wrong = data.draw(
        arguments(
            in_channels=st.just(channels),
            stages=st.lists(st.integers(-5, 4), max_size=3).map(tuple),
            num_slots=SIZES,
            eps=EPS,
        )
    )
    count = len(channels)
    stages = options['stages']
    possible = (
        wrong is None
        or options[wrong] == [3]
        or (wrong == 'eps' and options['eps'] in (0, 2.5))
    )
    if wrong in ('num_slots', 'eps') and options[wrong] == [3]:
        possible = False
    if wrong == 'in_channels' and possible:
        channels = options['in_channels']
        count = 1
    if possible:
        indices = [stage % count for stage in stages if -count <= stage < count]
        possible = len(set(indices)) == len(stages)
    if not possible and wrong in ('num_slots', 'eps') and not stages:
        return  # no layer is made of them
    neck = build(EANeck, options, possible)
    if not neck:
        return
    missing = data.draw(st.sampled_from([0, 0, 0, 1]))
    maps = [data.draw(tensors(2, c, 3, 2)) for c in channels[missing:]]
    with torch.no_grad():
        outs = result_or_value_error(lambda: neck(maps), not missing)
        for index, (out, x) in enumerate(zip(outs or (), maps, strict=False)):
            if str(index) in neck.layers:
                x = external_attention(neck.layers[str(index)], x)
            assert_close(out, x, rtol=1e-6, atol=1e-9)


@given(st.data())
def test_lesa(data):
    options, wrong = data.draw(
        arguments(
            in_channels=st.sampled_from([2, 4, 6, 12]),
            out_channels=st.sampled_from([4, 12, 24]),
            num_heads=HEADS,
            rel_pos_size=REL_POS,
            stride=STRIDES,
            variant=st.sampled_from(['dynamic', 'static', 'attention', 'augmentation']),
            position=st.sampled_from(['2d', '2d', 'flat']),
            impl=st.sampled_from(['auto', 'blocks', 'sdpa']),
        )
    )
    possible = wrong is None
    if possible:
        heads = options['num_heads']
        possible = not (
            options['in_channels'] % heads or options['out_channels'] % (2 * heads)
        )
    size = options['rel_pos_size']
    if possible and options['position'] == 'flat' and not isinstance(size, int):
        possible = size[0] == size[1]
    layer = build(LESA2d, options, possible)
    if not layer:
        return
    x, possible = draw_map(data, options['in_channels'])
    if possible and options['position'] == 'flat':
        possible = max(x.shape[2:]) <= layer.rel_pos_size[0]
    with torch.no_grad():
        out = result_or_value_error(lambda: layer(x), possible)
        if out is None:
            return
        stride = options['stride']
        size = (math.ceil(s / stride) for s in x.shape[2:])
        assert out.shape == (len(x), options['out_channels'], *size)
        assert out.isfinite().all()
        if len(x):
            assert_close(out, torch.cat([layer(image[None].clone()) for image in x]))
        if options['position'] == '2d':
            other = 'blocks' if options['impl'] == 'sdpa' else 'sdpa'
            layer.context.impl = other
            assert_close(out, layer(x))


@given(st.data())
def test_gsa(data):
    options, wrong = data.draw(
        arguments(
            in_channels=st.sampled_from([2, 4, 6]),
            num_heads=HEADS,
            rel_pos_size=REL_POS,
            content=FLAGS,
            columns=FLAGS,
            rows=FLAGS,
            axial_content=st.sampled_from([False, False, True]),
            max_shift=st.sampled_from([None, None, 1, 3]),
            stride=STRIDES,
        )
    )
    possible = wrong is None
    if possible:
        terms = options['content'], options['columns'], options['rows']
        possible = any(terms) and options['in_channels'] % options['num_heads'] == 0
        if options['axial_content'] and not (terms[0] and any(terms[1:])):
            possible = False
    layer = build(GlobalSelfAttention, options, possible)
    if layer:
        check_map_layer(data, layer, options['in_channels'], stride=options['stride'])


@pytest.mark.parametrize(
    'make',
    [
        lambda: ExternalAttention2d(4, 2),
        lambda: ExternalAttention2d(4, 2, order='plain'),
        lambda: SelfAttention2d(4, 2),
        lambda: SelfAttention2d(4, normalization='double'),
        lambda: LESA2d(4, num_heads=2, rel_pos_size=3),
        lambda: LESA2d(4, num_heads=2, rel_pos_size=5, position='flat'),
        lambda: GlobalSelfAttention(4, 2, rel_pos_size=3),
    ],
    ids=['EA', 'EA plain', 'SA', 'SA double', 'LESA', 'LESA flat', 'GSA'],
)
@pytest.mark.parametrize('scale', [1e-30, 1e-6, 1e3, 1e9])
def test_tiny_and_huge_inputs_stay_finite(make, scale):
    for training in (True, False):
        layer = make().train(training)
        x = (scale * torch.randn(2, 4, 3, 5)).requires_grad_()
        out = layer(x)
        assert out.isfinite().all()
        if scale < 1e6:  # beyond, torch's fused attention rounds its logits away
            out.sum().backward()
            assert x.grad.isfinite().all()
        assert all(tensor.isfinite().all() for tensor in layer.state_dict().values())
