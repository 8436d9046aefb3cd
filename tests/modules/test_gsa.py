"""The GSA layer: the paper's variants and sizes, shapes, initialisation, refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from attn_plugins.functional import reference
from attn_plugins.functional.relpos import resize_table
from attn_plugins.modules import GlobalSelfAttention

# Table 4 (all, without one, only one) and Table 2.
VARIANTS = {
    'all': dict(),
    'columns+rows': dict(content=False),
    'content+rows': dict(columns=False),
    'content+columns': dict(rows=False),
    'content': dict(columns=False, rows=False),
    'columns': dict(content=False, rows=False),
    'rows': dict(content=False, columns=False),
    'axial': dict(axial_content=True),
    'axial columns': dict(axial_content=True, rows=False),
    'axial rows': dict(axial_content=True, columns=False),
}


@pytest.fixture(params=VARIANTS)
def variant(request) -> dict:
    return VARIANTS[request.param]


def specification(layer: GlobalSelfAttention, x: torch.Tensor) -> torch.Tensor:
    """The layer in the reference's loops; its norm is called as it is."""
    B, C, H, W = x.shape
    heads = [
        F.conv2d(x, weight)
        .view(B, layer.num_heads, C // layer.num_heads, H, W)
        .permute(0, 1, 3, 4, 2)
        for weight in layer.qvk.weight.split(C)
    ]
    q, v, *k = heads
    options = dict(max_shift=layer.max_shift)
    kind = 'gsa_axial' if layer.axial_content else 'gsa'
    out = torch.zeros_like(x)
    if layer.content and not layer.axial_content:
        out = to_map(reference.gsa_content(q, *k, v))
        k = []
    for name, table, size in (('columns', layer.rel_h, H), ('rows', layer.rel_w, W)):
        if table is None:
            continue
        if layer.max_shift is None:
            table = resize_table(table, size, keep_sum=not layer.axial_content)
        if name == 'rows' and layer.norm is not None:
            v = layer.norm(to_map(v)).view(B, layer.num_heads, -1, H, W)
            v = v.permute(0, 1, 3, 4, 2)
        v = getattr(reference, f'{kind}_{name}')(q, *k, v, table, **options)
    if layer.rel_h is not None or layer.rel_w is not None:
        out = out + to_map(v)
    if layer.stride == 2:
        out = F.avg_pool2d(out, 2, ceil_mode=True, count_include_pad=False)
    return out


def to_map(x: torch.Tensor) -> torch.Tensor:
    """``(B, h, H, W, D)`` to ``(B, C, H, W)``."""
    return x.permute(0, 1, 4, 2, 3).flatten(1, 2)


def outcome(layer: GlobalSelfAttention, forward, x: torch.Tensor) -> dict:
    """Returns output, all gradients and the norm's statistics of one step."""
    layer = copy.deepcopy(layer)
    x = x.clone().requires_grad_()
    out = forward(layer, x)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * probe).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return dict(out=out, x=x.grad, **gradients, **dict(layer.named_buffers()))


def check_step(layer: GlobalSelfAttention, x: torch.Tensor) -> None:
    fast, slow = outcome(layer, nn.Module.__call__, x), outcome(layer, specification, x)
    for name, expected in slow.items():
        assert_close(fast[name], expected, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize('training', [True, False], ids=['training', 'eval'])
@pytest.mark.parametrize('size', [(1, 4), (5, 1), (3, 4)])
def test_equals_reference(variant, size, training):
    """Tables for (3, 4): other maps slice and stretch them. Two different images."""
    layer = GlobalSelfAttention(6, 2, rel_pos_size=(3, 4), **variant).double()
    if layer.norm is not None:
        nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
        nn.init.normal_(layer.norm.bias)
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.5, 1.5)
    scale = torch.tensor([1.0, 3.0], dtype=torch.float64).view(2, 1, 1, 1)
    x = scale * torch.randn(2, 6, *size, dtype=torch.float64)
    check_step(layer.train(training), x)


@pytest.mark.parametrize('axial_content', [False, True])
@pytest.mark.parametrize('max_shift', [1, 9])
def test_max_shift_equals_reference(max_shift, axial_content):
    options = dict(max_shift=max_shift, axial_content=axial_content)
    layer = GlobalSelfAttention(4, 2, rel_pos_size=7, **options).double()
    assert layer.rel_h.shape == layer.rel_w.shape == (2 * max_shift + 1, 2)
    check_step(layer, torch.randn(2, 4, 3, 5, dtype=torch.float64))


@pytest.mark.parametrize('size', [(3, 5), (4, 2)])
def test_pools_after_attention(size):
    layer = GlobalSelfAttention(4, 2, rel_pos_size=4, stride=2).double()
    check_step(layer, torch.randn(2, 4, *size, dtype=torch.float64))


@pytest.mark.parametrize(
    'norm_layer',
    [
        lambda c: nn.GroupNorm(2, c),
        lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        nn.InstanceNorm2d,
        nn.Identity,
    ],
    ids=['GN', 'no running statistics', 'IN', 'none'],
)
def test_norm_sees_what_the_specification_shows_it(norm_layer):
    layer = GlobalSelfAttention(4, 2, rel_pos_size=4, norm_layer=norm_layer).double()
    check_step(layer, torch.randn(2, 4, 3, 4, dtype=torch.float64))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (9, 1), (5, 8), (33, 47)])
def test_takes_any_size(variant, size, stride):
    layer = GlobalSelfAttention(16, rel_pos_size=(7, 5), stride=stride, **variant)
    x = torch.randn(2, 16, *size)
    out = layer(x)
    assert out.shape == (2, 16, *(-(-n // stride) for n in size))
    assert out.is_contiguous()


def test_channels_last_and_other_layouts(variant):
    layer = GlobalSelfAttention(16, rel_pos_size=5, **variant).eval()
    x = torch.randn(2, 16, 5, 6)
    expected = layer(x)
    assert_close(layer(x.to(memory_format=torch.channels_last)), expected)
    assert_close(
        layer(x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)), expected
    )


def bottlenecks(blocks: tuple[int, ...]):
    """Yields channels, incoming size and stride of a ResNet's 3x3 convolutions."""
    size = 56
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and block == 0 else 1
            yield 64 * 2**stage, size, stride
            size //= stride


def parameters_around(blocks: tuple[int, ...]) -> int:
    """Counts what is not in the place of a 3x3 convolution, each with its norm."""
    count = 7 * 7 * 3 * 64 + 2 * 64  # stem
    incoming = 64
    for channels, _, _ in bottlenecks(blocks):
        out = 4 * channels
        if incoming != out:  # the shortcut of a stage's first block
            count += incoming * out + 2 * out
        count += incoming * channels + 2 * channels  # norm1
        count += 2 * channels  # norm2
        count += channels * out + 2 * out  # norm3
        incoming = out
    return count + (incoming + 1) * 1000  # classes


@pytest.mark.parametrize(
    ('blocks', 'millions'),
    [
        ((2, 3, 5, 2), '14.203'),
        ((3, 4, 6, 3), '18.053'),
        ((3, 4, 23, 3), '30.398'),
    ],
    ids=['38', '50', '101'],
)
def test_parameters_of_the_papers_networks(blocks, millions):
    """With tables for 224 px; a plain ResNet of these blocks checks the counting."""
    layers = [
        GlobalSelfAttention(channels, rel_pos_size=size, stride=stride)
        for channels, size, stride in bottlenecks(blocks)
    ]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    # The first by hand: projections, two tables, batch norm.
    assert counts[0] == 3 * 64 * 64 + 2 * (2 * 56 - 1) * 8 + 2 * 64
    assert f'{(parameters_around(blocks) + sum(counts)) / 1e6:.3f}' == millions
    if blocks == (3, 4, 6, 3):
        convolutions = sum(9 * channels**2 for channels, _, _ in bottlenecks(blocks))
        assert parameters_around(blocks) + convolutions == 25_557_032  # ResNet-50


def test_parameters_of_variants():
    def count(**options):
        layer = GlobalSelfAttention(16, 2, rel_pos_size=(3, 5), **options)
        return {name: p.numel() for name, p in layer.named_parameters()}

    assert count() == {
        'rel_h': 5 * 8,
        'rel_w': 9 * 8,
        'qvk.weight': 3 * 256,
        'norm.weight': 16,
        'norm.bias': 16,
    }
    assert count(axial_content=True) == count()
    assert count(columns=False) == {'rel_w': 72, 'qvk.weight': 768}
    assert count(rows=False, content=False) == {'rel_h': 40, 'qvk.weight': 512}


def test_zero_tables_leave_the_content():
    layer = GlobalSelfAttention(16, rel_pos_size=7).eval()
    alone = GlobalSelfAttention(16, rel_pos_size=7, columns=False, rows=False)
    alone.load_state_dict(layer.state_dict(), strict=False)
    nn.init.zeros_(layer.rel_h)
    nn.init.zeros_(layer.rel_w)
    x = torch.randn(2, 16, 5, 7)
    assert_close(layer(x), alone(x))


def test_content_alone_is_permuted_with_the_pixels():
    layer = GlobalSelfAttention(16, rel_pos_size=7, columns=False, rows=False)
    x = torch.randn(1, 16, 5, 7)
    order = torch.randperm(35)
    permuted = x.flatten(2)[..., order].view_as(x)
    expected = layer(x).flatten(2)[..., order].view_as(x)
    assert_close(layer(permuted), expected)


def test_a_moved_picture_gives_a_moved_output():
    """Position is relative: with black borders, in eval mode, all of it moves."""
    layer = GlobalSelfAttention(16, rel_pos_size=12, content=False).double().eval()
    x = torch.zeros(2, 16, 12, 12, dtype=torch.float64)
    x[0, :, 1:5, 2:7] = torch.randn(16, 4, 5, dtype=torch.float64)
    x[1] = x[0].roll((3, 4), (1, 2))
    out = layer(x)
    assert out[0].abs().max() > 0
    assert_close(out[1], out[0].roll((3, 4), (1, 2)))


def test_outputs_are_of_the_inputs_scale_at_first():
    """No exact law, but neither vanishing nor exploding, whatever the size."""
    for channels, size in ((64, 56), (512, 7)):
        for options in (dict(content=False), dict(axial_content=True, rows=False)):
            layer = GlobalSelfAttention(channels, rel_pos_size=size, **options)
            out = layer(torch.randn(1, channels, size, size))
            assert 0.1 < out.std() < 3


def test_initialisation_draws_again():
    layer = GlobalSelfAttention(64, rel_pos_size=20)
    before = copy.deepcopy(layer.state_dict())
    layer.init_weights()
    for name in ('qvk.weight', 'rel_h', 'rel_w'):
        assert not torch.equal(layer.state_dict()[name], before[name])
    assert layer.qvk.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert layer.rel_h.std().item() == pytest.approx((20 * 8) ** -0.5, rel=0.15)


def test_state_dict_keys():
    assert list(GlobalSelfAttention(8, rel_pos_size=7).state_dict()) == [
        'rel_h',
        'rel_w',
        'qvk.weight',
        'norm.weight',
        'norm.bias',
        'norm.running_mean',
        'norm.running_var',
        'norm.num_batches_tracked',
    ]


def test_loads_tables_of_another_size():
    small = GlobalSelfAttention(16, rel_pos_size=7)
    large = GlobalSelfAttention(16, rel_pos_size=(14, 7))
    with pytest.warns(UserWarning, match='resized from 7 to 14 positions: rel_h'):
        large.load_state_dict(small.state_dict())
    assert_close(large.rel_h, resize_table(small.rel_h, 14, keep_sum=True))
    assert torch.equal(large.rel_w, small.rel_w)


def test_tables_with_max_shift_load_at_their_size_only():
    small = GlobalSelfAttention(16, rel_pos_size=7, max_shift=2)
    large = GlobalSelfAttention(16, rel_pos_size=7, max_shift=3)
    with pytest.raises(ValueError, match='cannot be resized'):
        large.load_state_dict(small.state_dict())


def test_evaluation_is_deterministic():
    layer = GlobalSelfAttention(16, rel_pos_size=7).eval()
    x = torch.randn(1, 16, 7, 9)
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', ['all', 'content', 'axial'])
def test_a_half_precision_step_is_close_to_float32(name, dtype):
    layer = GlobalSelfAttention(32, rel_pos_size=7, **VARIANTS[name])
    x = torch.randn(2, 32, 12, 12)
    exact = outcome(layer, nn.Module.__call__, x)
    half = outcome(layer.to(dtype), nn.Module.__call__, x.to(dtype))
    for name, value in half.items():
        assert value.isfinite().all(), name
    assert half['out'].dtype == dtype
    error = (half['out'].float() - exact['out']).norm() / exact['out'].norm()
    assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_heads=3), 'in_channels must be divisible by num_heads=3, got .*=16'),
        (dict(rel_pos_size=0), 'rel_pos_size must be a positive integer, .* got 0'),
        (dict(rel_pos_size=(7, 0)), r'rel_pos_size must be .* got \(7, 0\)'),
        (dict(rel_pos_size=(7,)), r'rel_pos_size must be .* got \(7,\)'),
        (dict(rel_pos_size=7.0), r'rel_pos_size must be .* got 7\.0'),
        (dict(max_shift=0), 'max_shift must be a positive integer, got 0'),
        (dict(stride=3), 'stride must be 1 or 2, got 3'),
        (dict(content=-1), 'content must be True or False, got -1'),
        (
            dict(content=False, columns=False, rows=False),
            'content, columns and rows are all False: choose at least one',
        ),
        (
            dict(axial_content=True, content=False),
            'axial_content=True needs content=True and columns or rows, got content=F',
        ),
        (
            dict(axial_content=True, columns=False, rows=False),
            'axial_content=True needs .* columns=False, rows=False',
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GlobalSelfAttention(**{'in_channels': 16, 'rel_pos_size': 7, **options})


def test_an_enlarged_picture_gives_an_enlarged_output():
    """Positions are summed, not averaged: longer tables weigh less."""
    layer = GlobalSelfAttention(16, num_heads=2, rel_pos_size=14).double().eval()
    # A smooth table and picture, so that the sums approximate integrals.
    for table in (layer.rel_h, layer.rel_w):
        nn.init.constant_(table, 0.05)
    x = torch.randn(1, 16, 14, 14, dtype=torch.float64)
    small = layer(x)
    for scale in (2, 6):
        large = layer(F.interpolate(x, scale_factor=scale))
        assert_close(large, F.interpolate(small, scale_factor=scale))


def test_an_empty_batch_gives_an_empty_batch():
    layer = GlobalSelfAttention(8, 2, rel_pos_size=3, stride=2).eval()
    assert layer(torch.ones(0, 8, 3, 5)).shape == (0, 8, 2, 3)
