"""Multi-head external attention: Algorithm 2, its axes, its trade-off, refusals."""

import pytest
import torch
from torch.testing import assert_close

from attn_plugins.functional import reference
from attn_plugins.modules import MultiHeadExternalAttention


def in_double(*arguments, **options) -> MultiHeadExternalAttention:
    layer = MultiHeadExternalAttention(*arguments, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(
    ('normalization', 'eps'), [('double', 0.0), ('double', 0.1), ('softmax', 0.0)]
)
@pytest.mark.parametrize(
    ('heads', 'slots', 'tokens'), [(1, 4, 5), (2, 3, 9), (4, 8, 1)]
)
def test_equals_algorithm_2(heads, slots, tokens, normalization, eps, bias):
    options = dict(normalization=normalization, eps=eps)
    layer = in_double(6, heads, slots, mid_channels=8, bias=bias, **options)
    x = torch.randn(2, tokens, 6, dtype=torch.float64, requires_grad=True)

    def slow(x):
        attended = reference.multi_head_external_attention(
            layer.query(x),
            layer.key.weight,
            layer.key.bias,
            layer.value.weight.T,
            layer.value.bias,
            num_heads=heads,
            **options,
        )
        return layer.out(attended)

    out, expected = layer(x), slow(x)
    assert_close(out, expected)
    weight = torch.randn_like(out)
    leaves = [x, *layer.parameters()]
    gradients = torch.autograd.grad((out * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=1e-8, atol=1e-10)


def test_the_first_softmax_is_over_tokens():
    """Tokens that are all alike get all slots alike; over slots they would not."""
    layer = in_double(4, 2, 3)
    x = torch.randn(1, 1, 4, dtype=torch.float64).expand(1, 7, 4)
    mean_value = layer.value.weight.mean(dim=1) + layer.value.bias
    expected = layer.out(mean_value.repeat(2)).expand(1, 7, 4)
    assert_close(layer(x), expected)
    over_slots = in_double(4, 2, 3, normalization='softmax')
    over_slots.load_state_dict(layer.state_dict())
    assert (over_slots(x) - expected).abs().max() > 1e-3


def test_tokens_can_be_permuted():
    layer = in_double(8, 4, 5)
    x, order = torch.randn(2, 9, 8, dtype=torch.float64), torch.randperm(9)
    assert_close(layer(x[:, order]), layer(x)[:, order])


def test_heads_share_the_memories():
    layer = MultiHeadExternalAttention(32, num_heads=8, num_slots=16)
    assert layer.key.weight.shape == (16, 4)
    assert layer.value.weight.shape == (4, 16)


@pytest.mark.parametrize('k', [1, 2, 4, 8])
def test_heads_and_slots_can_be_traded(k):
    """Section 3.3: k times the heads, a k-th of the slots, the same attention cost."""
    heads, slots = 4 * k, 64 // k
    layer = MultiHeadExternalAttention(64, heads, slots, mid_channels=64 * k)
    assert heads * slots == 256
    assert layer(torch.rand(1, 9, 64)).shape == (1, 9, 64)


def test_eamlps_shape_and_parameters():
    """The blocks of the released EAMLP-7: 256 channels, 4 x 4 heads, 64 slots."""
    layer = MultiHeadExternalAttention(256, 16, 64, mid_channels=1024)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        'query.weight': (1024, 256),
        'query.bias': (1024,),
        'key.weight': (64, 64),
        'key.bias': (64,),
        'value.weight': (64, 64),
        'value.bias': (64,),
        'out.weight': (256, 1024),
        'out.bias': (256,),
    }


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match=r'divisible by num_heads=3, got .*=8'):
        MultiHeadExternalAttention(8, 3)


@pytest.mark.parametrize('shape', [(2, 5, 7), (2, 8, 5, 5), (5, 8)])
def test_wrong_input_shape(shape):
    with pytest.raises(ValueError, match=r'expects \(B, N, 8\), got'):
        MultiHeadExternalAttention(8, 2)(torch.randn(shape))
