"""The layer and the neck: shapes, parameters, initialisation, refusals."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attn_plugins.functional import reference
from attn_plugins.modules import EANeck, ExternalAttention2d


@pytest.mark.parametrize('num_slots', [8, 32, 64, 256])
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (9, 1), (5, 7), (33, 47)])
def test_keeps_any_shape(num_slots, size):
    layer = ExternalAttention2d(16, num_slots)
    x = torch.randn(2, 16, *size)
    assert layer(x).shape == x.shape


@pytest.mark.parametrize('order', ['folded', 'plain'])
@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize(
    ('normalization', 'eps'), [('double', 0.0), ('double', 0.1), ('softmax', 0.0)]
)
def test_equals_reference_with_residual_norm_relu(normalization, eps, tied, order):
    options = dict(normalization=normalization, eps=eps)
    layer = ExternalAttention2d(6, 4, tied=tied, order=order, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    memory = layer.key if tied else layer.value
    attended = reference.external_attention_block(
        x.flatten(2).mT,
        layer.query.weight,
        layer.query.bias,
        layer.key.weight,
        memory.weight if tied else memory.weight.T,
        layer.out.weight,
        **options,
    )
    norm = copy.deepcopy(layer.norm)
    expected = (x + norm(attended.mT.reshape(x.shape))).relu()
    assert_close(layer(x), expected)
    assert_close(layer.norm.running_var, norm.running_var)


def outcome(layer: ExternalAttention2d, order: str, x: torch.Tensor) -> dict:
    """Returns output, all gradients and the norm's statistics of one step."""
    layer = copy.deepcopy(layer)
    layer.order = order
    x = x.clone().requires_grad_()
    out = layer(x)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * probe).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return dict(out=out, x=x.grad, **gradients, **dict(layer.norm.named_buffers()))


@pytest.mark.parametrize('size', [(1, 2), (1, 9), (9, 1), (5, 7)])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(tied=True),
        dict(eps=0.1),
        dict(normalization='softmax'),
        dict(mid_channels=3),
        dict(norm_layer=lambda c: nn.BatchNorm2d(c, momentum=None)),
        dict(norm_layer=lambda c: nn.BatchNorm2d(c, affine=False)),
        dict(norm_layer=lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
        dict(norm_layer=nn.SyncBatchNorm),
        dict(norm_layer=lambda c: nn.GroupNorm(2, c)),
    ],
    ids=lambda options: ','.join(options) or 'default',
)
def test_folded_step_equals_plain_step(options, training, size):
    """Values, every gradient and the running statistics, the norm folded or not."""
    layer = ExternalAttention2d(6, 4, **options).double().train(training)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for _, buffer in layer.norm.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    # The images differ: statistics must be those of the batch.
    x = torch.randn(3, 6, *size, dtype=torch.float64) * torch.tensor(
        [0.1, 1.0, 3.0], dtype=torch.float64
    ).view(3, 1, 1, 1)
    folded, plain = outcome(layer, 'folded', x), outcome(layer, 'plain', x)
    assert folded.keys() == plain.keys()
    for name, expected in plain.items():
        assert_close(folded[name], expected, rtol=1e-8, atol=1e-9, msg=name)


def test_folding_keeps_small_variances():
    """Attention that hardly differs between pixels: E[a a] - E[a] E[a] would fail."""
    layer = ExternalAttention2d(16, 64)
    x = 1e-3 * torch.randn(2, 16, 32, 32)
    exact = outcome(copy.deepcopy(layer).double(), 'plain', x.double())
    folded = outcome(layer, 'folded', x)
    variance = exact['running_var'] - 0.9  # what this step's variance contributed
    assert variance.max() < 1e-5
    assert_close(folded['out'].double(), exact['out'], rtol=0.01, atol=0.01)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('eps', [0.0, 1e-9])
def test_a_folded_half_precision_step_is_close_to_float32(dtype, eps):
    layer = ExternalAttention2d(32, 16, eps=eps)
    x = torch.randn(2, 32, 24, 24)
    exact = outcome(layer, 'folded', x)
    half = outcome(layer.to(dtype), 'folded', x.to(dtype))
    for name, value in half.items():
        assert value.isfinite().all(), name
    assert half['out'].dtype == dtype
    assert_close(half['out'].float(), exact['out'], rtol=0.1, atol=0.1)


def test_one_value_per_channel_has_no_statistics():
    layer = ExternalAttention2d(4, 4, order='folded')
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        layer(torch.randn(1, 4, 1, 1))


@pytest.mark.parametrize('order', ['auto', 'folded', 'plain'])
def test_every_parameter_gets_a_gradient(order):
    layer = ExternalAttention2d(8, 4, order=order)
    layer(torch.randn(2, 8, 5, 7)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert name == 'query.bias' or parameter.grad.abs().max() > 0, name


def test_parameter_count_at_table_xii():
    """512 channels, 64 slots: 0.590 M, with one memory for both 0.557 M."""

    def count(**options):
        layer = ExternalAttention2d(512, 64, norm_layer=nn.Identity, **options)
        return sum(parameter.numel() for parameter in layer.parameters())

    assert count() == 2 * 512 * 512 + 512 + 2 * 512 * 64 == 590_336
    assert count(tied=True) == 557_568
    assert count(mid_channels=128) == 2 * 512 * 128 + 128 + 2 * 128 * 64


def test_memories_start_equal_in_storages_of_their_own():
    layer = ExternalAttention2d(8, 4)
    assert_close(layer.value.weight, layer.key.weight.T)
    assert layer.value.weight.data_ptr() != layer.key.weight.data_ptr()
    before = layer.key.weight.clone()
    with torch.no_grad():
        layer.value.weight.add_(1)
    assert_close(layer.key.weight, before)


def test_initial_scale():
    layer = ExternalAttention2d(512, 64)
    for linear in (layer.query, layer.key, layer.out):
        assert linear.weight.std().item() == pytest.approx(512**-0.5 * 2**0.5, rel=0.02)


def test_state_dict_keys():
    assert list(ExternalAttention2d(8, 4).state_dict()) == [
        'query.weight',
        'query.bias',
        'key.weight',
        'value.weight',
        'out.weight',
        'norm.weight',
        'norm.bias',
        'norm.running_mean',
        'norm.running_var',
        'norm.num_batches_tracked',
    ]


def test_evaluation_is_deterministic():
    layer = ExternalAttention2d(8, 4).eval()
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(layer(x), layer(x))


def apart_and_in_place(
    num_slots: int = 4, **options
) -> tuple[ExternalAttention2d, ExternalAttention2d]:
    apart = ExternalAttention2d(8, num_slots, **options)
    in_place = ExternalAttention2d(8, num_slots, inplace=True, **options)
    in_place.load_state_dict(apart.state_dict())
    return apart.eval(), in_place.eval()


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('eps', [0.0, 0.1])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('num_slots', [4, 32])  # 32: logits with the pixels first
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_inference_in_place(mode, num_slots, dtype, eps, layout):
    layers = apart_and_in_place(num_slots, eps=eps)
    apart, in_place = (layer.to(dtype) for layer in layers)
    x = torch.randn(2, 8, 9, 7, dtype=dtype).to(memory_format=layout)
    before = x.clone()
    with mode():
        expected = apart(x)
        assert torch.equal(x, before)
        x = x.clone()  # inference mode wants a tensor of its own
        out = in_place(x)
    assert_close(out, expected)
    assert torch.equal(x, out)
    assert out.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ('options', 'make'),
    [
        (dict(order='plain'), torch.clone),
        (dict(norm_layer=lambda channels: nn.GroupNorm(2, channels)), torch.clone),
        ({}, lambda x: x[:1].expand(2, -1, -1, -1)),
        ({}, lambda x: torch.cat([x, x], dim=1)[:, :8]),
    ],
    ids=['plain order', 'group norm', 'one map twice', 'a slice'],
)
def test_inference_leaves_alone_what_it_cannot_overwrite(options, make):
    apart, in_place = apart_and_in_place(**options)
    x = make(torch.randn(2, 8, 5, 7))
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(in_place(x), apart(x))
    assert torch.equal(x, before)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_in_place_is_for_inference():
    apart, in_place = apart_and_in_place()
    x = torch.randn(2, 8, 5, 7)
    before = x.clone()
    steps = [outcome(layer, 'auto', x) for layer in (apart, in_place)]
    assert_close(*steps, rtol=0, atol=0)
    in_place.requires_grad_(False)(x)  # not within no_grad
    with torch.no_grad():
        with torch.autocast('cpu', torch.bfloat16):
            in_place(x)
        torch.jit.trace(in_place, x, check_trace=False)
    assert torch.equal(x, before)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('before', [nn.Identity(), nn.ReLU()])
def test_in_place_can_be_recomputed(before, training):
    """The first pass of activation checkpointing runs without autograd."""
    x = torch.randn(2, 8, 5, 7)
    gradients = []
    for layer in apart_and_in_place():
        layer.train(training)
        leaf = x.clone().requires_grad_()
        out = checkpoint(nn.Sequential(before, layer), 2 * leaf, use_reentrant=True)
        out.square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in layer.parameters())])
    assert_close(*gradients)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_compiles_in_place(layout):
    apart, in_place = apart_and_in_place()
    compiled = torch.compile(in_place, backend='aot_eager', fullgraph=True)
    x = torch.randn(1, 8, 5, 7).to(memory_format=layout)
    with torch.no_grad():
        assert_close(compiled(x), apart(x))


def test_in_place_counts_the_same_operations():
    counts, overwritten = [], []
    for layer in apart_and_in_place():
        x = torch.randn(2, 8, 5, 7)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            overwritten.append(layer(x).data_ptr() == x.data_ptr())
        counts.append(counter.get_total_flops())
    assert overwritten == [False, True]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_slots=-1), 'num_slots must be a positive integer, got -1'),
        (dict(num_slots=6.4), 'num_slots must be a positive integer, got 6.4'),
        (dict(num_slots=True), 'num_slots must be a positive integer, got True'),
        (dict(normalization='l1'), "normalization must be one of .* got 'l1'"),
        (dict(order='fast'), "order must be one of .* got 'fast'"),
        (dict(eps=float('nan')), 'eps must be >= 0'),
        (dict(eps=1e-9, normalization='softmax'), 'eps must be >= 0, and 0 unless'),
        (dict(tied='no'), 'tied must be True or False'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ExternalAttention2d(**{'in_channels': 8, **options})


@pytest.mark.parametrize('shape', [(2, 7, 5, 5), (2, 8, 5), (8, 5, 5)])
def test_wrong_input_shape(shape):
    with pytest.raises(ValueError, match=r'expects \(B, 8, H, W\), got'):
        ExternalAttention2d(8)(torch.randn(shape))


def test_neck_attends_only_to_its_stages():
    neck = EANeck([4, 6, 8], stages=(0, -1), num_slots=5, mid_channels=3)
    inputs = tuple(torch.randn(2, c, 9 - c, c) for c in (4, 6, 8))
    outputs = neck(inputs)
    assert [tuple(x.shape) for x in outputs] == [tuple(x.shape) for x in inputs]
    assert outputs[1] is inputs[1]
    assert not torch.equal(outputs[0], inputs[0])
    assert_close(outputs[2], neck.layers['2'](inputs[2]))
    assert neck.layers['0'].num_slots == 5
    assert neck.layers['0'].query.out_features == 3


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ((3,), r'stages must lie in \[-3, 3\) .* got 3'),
        ((-4,), r'stages must lie in \[-3, 3\) .* got -4'),
        ((2, -1), r'stages must differ, got \(2, -1\)'),
        (-1, 'stages must be a sequence .* got -1'),
    ],
)
def test_neck_refuses_stages_that_do_not_exist(stages, message):
    with pytest.raises(ValueError, match=message):
        EANeck([4, 6, 8], stages=stages)


def test_neck_wants_the_channels_of_every_map():
    with pytest.raises(ValueError, match=r'in_channels must be a sequence .* got 256'):
        EANeck(256)


def test_neck_refuses_another_number_of_maps():
    with pytest.raises(ValueError, match='expects 3 maps, got 2'):
        EANeck([4, 6, 8])((torch.randn(1, 4, 2, 2), torch.randn(1, 6, 2, 2)))


def test_neck_names_channels_that_do_not_fit():
    with pytest.raises(ValueError, match=r'expects \(B, 8, H, W\), got \(1, 6, 2, 2\)'):
        EANeck([8])((torch.randn(1, 6, 2, 2),))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: EANeck('8'), 'in_channels must be a sequence of integers'),
        (lambda: EANeck([8, 0]), 'in_channels must be a positive integer, got 0'),
        (lambda: EANeck([8], ['0']), 'stages must be a sequence of integers'),
    ],
)
def test_neck_refuses_what_is_no_sequence_of_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (torch.ones(2, 8, 0, 3), 'at least one pixel'),
        (torch.ones(2, 8, 3, 3, dtype=torch.long), 'floating-point'),
    ],
)
def test_maps_without_pixels_and_of_integers_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        ExternalAttention2d(8)(x)
