"""The memory-efficient baseline equals the loops of the specification."""

import pytest
import torch
from torch.testing import assert_close

from attn_plugins.functional import reference, self_attention


@pytest.mark.parametrize('normalization', ['softmax', 'double'])
@pytest.mark.parametrize(('batch', 'pixels'), [(1, 1), (2, 3), (1, 13)])
@pytest.mark.parametrize('block_size', [5, 1024])
def test_equals_reference(batch, pixels, normalization, block_size):
    shape = (batch, pixels, 4)
    inputs = [torch.randn(shape, dtype=torch.float64) for _ in 'qkv']
    fast = [x.clone()[:, None].requires_grad_() for x in inputs]
    slow = [x.clone().requires_grad_() for x in inputs]
    options = dict(normalization=normalization, scale=0.7)
    out = self_attention(*fast, block_size=block_size, **options)[:, 0]
    expected = reference.self_attention(*slow, **options)
    assert_close(out, expected)
    weight = torch.randn_like(expected)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for x, want in zip(fast, slow, strict=True):
        assert_close(x.grad[:, 0], want.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('normalization', ['softmax', 'double'])
def test_heads_are_independent(normalization):
    q, k, v = (torch.randn(2, 3, 7, 4) for _ in 'qkv')
    out = self_attention(q, k, v, normalization=normalization)
    one = self_attention(q[:, 1:2], k[:, 1:2], v[:, 1:2], normalization=normalization)
    assert_close(out[:, 1:2], one)


def test_default_scale_is_that_of_scaled_dot_product():
    q, k, v = (torch.randn(1, 1, 7, 16) for _ in 'qkv')
    assert_close(self_attention(q, k, v), self_attention(q, k, v, scale=0.25))


def test_softmax_over_keys_weights_sum_to_one():
    q, k = torch.randn(1, 1, 7, 4), torch.randn(1, 1, 7, 4)
    for normalization in ('softmax', 'double'):
        ones = self_attention(q, k, torch.ones_like(q), normalization=normalization)
        assert_close(ones, torch.ones_like(q))


def test_unknown_normalization():
    q = torch.randn(1, 1, 3, 4)
    with pytest.raises(ValueError, match=r"normalization must be one of .* got 'l2'"):
        self_attention(q, q, q, normalization='l2')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_double_normalization_in_half_precision(dtype):
    """The keys' bias is large here: rounded to half it would be off by percents."""
    q, k, v = (torch.randn(1, 1, 500, 16) for _ in 'qkv')
    q = (4 * q).to(dtype)
    k, v = k.to(dtype), v.to(dtype)
    out = self_attention(q, k, v, normalization='double')
    exact = self_attention(q.double(), k.double(), v.double(), normalization='double')
    error = (out - exact).norm() / exact.norm()
    assert error < 2 * torch.finfo(dtype).eps
