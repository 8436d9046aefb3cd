"""Performer attention: two softmaxes are what the printed sums of powers are."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from attn_plugins.functional import performer_attention, reference


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ('B', 'N', 'D', 'V', 'R'),
    [(2, 7, 3, 4, 5), (1, 1, 2, 2, 3), (2, 5, 4, 1, 1), (3, 9, 1, 3, 2)],
)
def test_equals_the_loops(B, N, D, V, R):
    leaves = [draw(B, N, D), draw(B, N, D), draw(B, N, V), draw(R, D)]
    out, expected = performer_attention(*leaves), reference.performer_attention(*leaves)
    assert_close(out, expected)
    weight = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=1e-8, atol=1e-10)


def test_gradcheck():
    leaves = [draw(1, 4, 3), draw(1, 4, 3), draw(1, 4, 2), draw(5, 3)]
    assert gradcheck(performer_attention, leaves)


def test_memory_layout_and_leading_dimensions_do_not_matter():
    q, k, v, features = draw(2, 3, 7, 4), draw(2, 3, 7, 4), draw(2, 3, 7, 5), draw(6, 4)
    out = performer_attention(q, k, v, features)
    transposed = [t.mT.contiguous().mT for t in (q, k, v)]
    assert_close(performer_attention(*transposed, features), out)
    assert_close(performer_attention(q[1], k[1], v[1], features), out[1])


def test_many_features_come_near_self_attention():
    q, k, v = (0.5 * draw(1, 6, 4).detach() for _ in range(3))
    features = draw(200_000, 4).detach()
    expected = reference.self_attention(q, k, v, scale=1.0)
    assert_close(performer_attention(q, k, v, features), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [1, 100])
def test_half_precision_is_finite_and_near(dtype, scale):
    q, k, v = (scale * torch.randn(2, 65, 8) for _ in range(3))
    features = 2 * torch.randn(4, 8)
    halves = [tensor.to(dtype) for tensor in (q, k, v, features)]
    out = performer_attention(*halves)
    assert out.dtype == dtype
    expected = performer_attention(*(tensor.double() for tensor in halves))
    tolerance = dict(rtol=0.02, atol=0.02 * scale)
    assert_close(out.double(), expected, **tolerance)


def test_exponents_are_exact_under_autocast():
    q, k, v, features = (torch.randn(2, 65, 8) for _ in range(4))
    expected = performer_attention(q, k, v, features[0])
    with torch.autocast('cpu', torch.bfloat16):
        assert_close(performer_attention(q, k, v, features[0]), expected)


def test_keys_far_from_zero_do_not_divide_zero_by_zero():
    """As printed, all powers vanish here."""
    q, k = torch.randn(1, 5, 4), 50 + torch.randn(1, 5, 4)
    out = performer_attention(q, k, torch.ones(1, 5, 2), torch.randn(3, 4))
    assert_close(out, torch.ones(1, 5, 2))


@pytest.mark.parametrize('name', ['q', 'k'])
def test_wrong_width(name):
    tensors = dict(q=draw(2, 5, 3), k=draw(2, 5, 3))
    tensors[name] = draw(2, 5, 4)
    with pytest.raises(ValueError, match=rf'{name} must be \(\.\.\., N, 3\) to fit'):
        performer_attention(**tensors, v=draw(2, 5, 3), features=draw(4, 3))
