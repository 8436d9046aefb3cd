"""LESA as a layer: equal to the specification, in training and in all its variants."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from attn_plugins.functional import reference, resize_table
from attn_plugins.modules import LESA2d

VARIANTS = ['dynamic', 'static', 'attention', 'augmentation']


def make(**options) -> LESA2d:
    """A layer in float64 without a number that symmetry could hide."""
    layer = LESA2d(8, **{'num_heads': 2, 'rel_pos_size': 4, **options}).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name, buffer in layer.named_buffers():
        if 'running_var' in name:
            buffer.uniform_(0.5, 1.5)
        elif 'running_mean' in name:
            buffer.normal_()
    return layer


def images(height: int, width: int, batch: int = 3) -> Tensor:
    """Images that differ: statistics must be those of the batch."""
    x = torch.randn(batch, 8, height, width, dtype=torch.float64)
    scale = torch.tensor([0.3, 1.0, 3.0], dtype=x.dtype).view(3, 1, 1, 1)
    return x * scale[:batch] + scale[:batch]


def printed(layer: LESA2d, x: Tensor) -> Tensor:
    """The layer as the paper prints it, from loops and with N x N similarities."""
    context = layer.context
    q, k, v = context.heads(x)
    norm = context.similarity_norm
    if layer.position == '2d':
        rel_h = resize_table(context.rel_h, x.shape[2])
        rel_w = resize_table(context.rel_w, x.shape[3])
        c = reference.lesa_attention(q, k, v, rel_h, rel_w, norm)
        c = context.out_norm(c.flatten(1, 2))
    else:
        size = context.rel_pos_size
        c = reference.lesa_flat_attention(q, k, v, context.rel, size, norm)
        c = context.out_norm(c.flatten(1, 3)).unflatten(1, (-1, 2)).sum(2)
    if layer.variant == 'attention':
        return c
    if layer.variant == 'augmentation':
        return torch.cat([layer.conv(x), layer.proj(c)], 1)
    local = layer.local
    m = local.norm(local.proj(local.conv(x)))
    if layer.variant == 'static':
        return m + c
    gate = layer.gate
    w = gate.norm1(gate.conv1(torch.cat([m, c], 1).relu()))
    w = gate.norm2(gate.conv2(w.relu())).sigmoid()
    return m + w * c


def outcome(
    layer: LESA2d, forward: Callable[[LESA2d, Tensor], Tensor], x: Tensor
) -> dict[str, Tensor]:
    """Output, gradients and buffers of one step on a copy of the layer."""
    layer = copy.deepcopy(layer)
    x = x.clone().requires_grad_()
    out = forward(layer, x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).cos()
    (out * weight).sum().backward()
    found = dict(out=out.detach(), x=x.grad)
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f'{name} is outside of the graph'
        found[f'{name}.grad'] = parameter.grad
    return found | {name: buffer.clone() for name, buffer in layer.named_buffers()}


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert_close(found[name], wanted, rtol=1e-7, atol=1e-8, msg=name)


# At the tables' size, smaller, larger, one row, one column.
@pytest.mark.parametrize('size', [(4, 4), (2, 3), (5, 6), (1, 3), (3, 1)])
@pytest.mark.parametrize('training', [True, False], ids=['training', 'eval'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_equals_the_printed_form(variant, training, size):
    layer = make(variant=variant).train(training)
    x = images(*size)
    check_equal(outcome(layer, LESA2d.forward, x), outcome(layer, printed, x))


@pytest.mark.parametrize('size', [(4, 4), (2, 3), (1, 3)])
@pytest.mark.parametrize('training', [True, False], ids=['training', 'eval'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_imagenet_form_equals_the_printed_form(variant, training, size):
    layer = make(variant=variant, position='flat').train(training)
    x = images(*size)
    check_equal(outcome(layer, LESA2d.forward, x), outcome(layer, printed, x))


def test_equals_the_printed_form_at_other_table_sizes():
    layer = make(rel_pos_size=(2, 5))
    x = images(3, 4)
    check_equal(outcome(layer, LESA2d.forward, x), outcome(layer, printed, x))


@pytest.mark.parametrize(
    'options', [dict(momentum=None), dict(affine=False), dict(eps=0.1)]
)
def test_norms_of_other_options(options):
    layer = make(norm_layer=lambda channels: nn.BatchNorm2d(channels, **options))
    x = images(3, 4)
    check_equal(outcome(layer, LESA2d.forward, x), outcome(layer, printed, x))


@pytest.mark.parametrize('variant', VARIANTS)
def test_checkpointing_changes_nothing(variant):
    """The same gradients, and running statistics that move once."""
    layer = make(variant=variant)
    saving = copy.deepcopy(layer)
    saving.with_cp = True
    x = images(3, 4)
    expected = outcome(layer, LESA2d.forward, x)
    check_equal(outcome(saving, LESA2d.forward, x), expected)
    assert expected['context.similarity_norm.num_batches_tracked'] == 1


def test_the_shift_of_the_similarities_norm_has_no_effect():
    """Zero gradient, but a gradient: or distributed training stops."""
    grad = outcome(make(), LESA2d.forward, images(3, 4))
    bias = grad['context.similarity_norm.bias.grad']
    assert_close(bias, torch.zeros_like(bias))


def test_a_closed_gate_leaves_the_local_term():
    layer = make().eval()
    nn.init.zeros_(layer.gate.norm2.weight)
    nn.init.constant_(layer.gate.norm2.bias, -1e3)
    x = images(3, 4)
    assert_close(layer(x), layer.local(x))


@pytest.mark.parametrize('position', ['2d', 'flat'])
def test_evaluation_without_the_unary_term(position):
    """Table 1: what is left keeps its weights."""
    layer = make(position=position, variant='attention').eval()
    nn.init.zeros_(layer.context.out_norm.bias)
    layer.context.out_norm.running_mean.zero_()
    x = images(3, 4)
    own = layer.context.own_weight(x)
    assert own.shape == (3, 2, 3, 4)
    assert 0 < own.min() < own.max() < 1
    whole = layer(x)
    layer.context.without_unary = True
    rest = layer(x)
    if position == '2d':
        _, _, v = layer.context.heads(x)
        unary = layer.context.out_norm((own.unsqueeze(2) * v).flatten(1, 2))
        assert_close(whole - rest, unary)
    assert not torch.allclose(whole, rest)


def test_without_unary_a_lone_pixel_gets_nothing():
    for position in ('2d', 'flat'):
        layer = make(position=position, variant='attention').eval()
        layer.context.without_unary = True
        x = images(1, 1)
        assert_close(layer.context.own_weight(x), torch.ones(3, 2, 1, 1).double())
        expected = layer.context.out_norm.bias - (
            layer.context.out_norm.running_mean
            * layer.context.out_norm.weight
            * torch.rsqrt(layer.context.out_norm.running_var + 1e-5)
        )
        if position == 'flat':
            expected = expected.view(-1, 2).sum(1)
        assert_close(layer(x)[0].flatten(), expected)


@pytest.mark.parametrize(('size', 'pooled'), [((4, 6), (2, 3)), ((5, 7), (3, 4))])
def test_stride_pools_as_a_strided_convolution_does(size, pooled):
    layer = make(stride=2).eval()
    x = images(*size)
    out = layer(x)
    layer.stride = 1
    assert out.shape[2:] == pooled
    assert (
        out.shape[2:]
        == F.conv2d(x, torch.zeros(1, 8, 3, 3).double(), None, 2, 1).shape[2:]
    )
    assert_close(out[:, :, 0, 0], layer(x)[:, :, :2, :2].mean((2, 3)))
    if size == (5, 7):
        assert_close(out[:, :, -1, -1], layer(x)[:, :, -1, -1])


@pytest.mark.parametrize('variant', VARIANTS)
def test_other_output_channels(variant):
    layer = make(out_channels=20, variant=variant)
    assert layer(images(3, 4)).shape == (3, 20, 3, 4)


def test_attention_augmentation_has_bellos_widths():
    """d_k = 0.2 C and d_v = 0.1 C, multiples of the 8 heads."""
    context = LESA2d(256, rel_pos_size=14, variant='augmentation').context
    assert [8 * width for width in context.widths] == [48, 48, 24]


def test_own_convolution():
    """It gets what a grouped 3x3 convolution is told; it could be deformable."""
    calls = []

    def local_conv(*args, **kwargs):
        calls.append((args, kwargs))
        return nn.Conv2d(*args, **kwargs)

    LESA2d(16, 32, num_heads=4, rel_pos_size=4, local_conv=local_conv)
    options = dict(kernel_size=3, padding=1, groups=4, bias=False)
    assert calls == [((16, 32), options)]


def test_initialisation_survives_a_parents():
    layer = LESA2d(64, rel_pos_size=8)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 7.0)
    layer.init_weights()
    assert layer.context.rel_h.std().item() == pytest.approx(4**-0.5, rel=0.3)
    assert layer.context.qkv.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert (layer.gate.norm2.weight == 1).all()
    out = layer(torch.randn(2, 64, 8, 8))
    assert 0.3 < out.std() < 3


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_heads=3), r'in_channels must be divisible by num_heads=3'),
        (dict(out_channels=12), r'out_channels must be divisible by 2 \* num_heads'),
        (dict(rel_pos_size=(3, 4), position='flat'), r'must be one number .* got \(3,'),
        (dict(stride=3), r'stride must be 1 or 2, got 3'),
        (dict(variant='gated'), r"variant must be one of 'dynamic', .* got 'gated'"),
        (dict(position='1d'), r"position must be one of '2d', 'flat', got '1d'"),
        (dict(impl='fast'), r"impl must be one of .* got 'fast'"),
        (dict(norm_layer=lambda c: nn.GroupNorm(1, c)), r'norm_layer .* GroupNorm'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        LESA2d(16, **{'num_heads': 4, 'rel_pos_size': 4, **options})


def test_maps_beyond_the_flat_table_are_refused():
    with pytest.raises(ValueError, match=r'maps up to 4 x 4, got 5 x 4'):
        make(position='flat')(images(5, 4))


def test_one_pixel_of_one_image_cannot_be_trained_on():
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        make(variant='attention', norm_layer=nn.SyncBatchNorm)(images(1, 1, batch=1))


def test_tables_of_another_size_load_with_a_warning():
    small, large = make(rel_pos_size=4), make(rel_pos_size=(6, 5))
    with pytest.warns(UserWarning, match='from 4 to'):
        large.load_state_dict(small.state_dict())
    assert_close(large.context.rel_h, resize_table(small.context.rel_h, 6))
    with pytest.raises(ValueError, match='cannot be resized: build the model for'):
        make(position='flat', rel_pos_size=5).load_state_dict(
            make(position='flat').state_dict()
        )
