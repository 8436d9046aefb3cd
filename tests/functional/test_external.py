"""External attention: the fast forms equal the loops of the specification."""

import pytest
import torch
from torch.testing import assert_close

from attn_plugins.functional import (
    external_attention,
    external_attention_block,
    normalize_logits,
    product_moments,
    reference,
)

# (batch, pixels): one pixel, fewer pixels than slots, as many, more, a prime number.
SIZES = [(1, 1), (2, 3), (2, 8), (2, 9), (1, 13)]
NORMS = [('double', 0.0), ('double', 1e-9), ('double', 0.1), ('softmax', 0.0)]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def check_values_and_gradients(fast, slow, inputs) -> None:
    """Compares outputs, in training and inference, and gradients."""
    out, expected = fast(*inputs), slow(*inputs)
    assert_close(out, expected, rtol=1e-10, atol=1e-12)
    with torch.no_grad():  # takes another layout
        assert_close(fast(*inputs), expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(expected)
    leaves = [leaf for leaf in inputs if leaf is not None]
    gradients = torch.autograd.grad((out * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('slots', [8, 32])  # with 32, inference has its own layout
@pytest.mark.parametrize(('normalization', 'eps'), NORMS)
@pytest.mark.parametrize(('batch', 'pixels'), SIZES)
def test_external_attention_equals_reference(batch, pixels, normalization, eps, slots):
    options = dict(normalization=normalization, eps=eps)
    check_values_and_gradients(
        lambda x, key, value: external_attention(x.mT, key, value, **options).mT,
        lambda x, key, value: reference.external_attention(x, key, value, **options),
        (double(batch, pixels, 5), double(slots, 5), double(slots, 4)),
    )


@pytest.mark.parametrize('order', ['plain', 'folded', 'auto'])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(('normalization', 'eps'), NORMS)
@pytest.mark.parametrize(('batch', 'pixels'), SIZES)
def test_block_equals_reference(batch, pixels, normalization, eps, bias, order):
    options = dict(normalization=normalization, eps=eps)
    weights = (
        double(6, 5),
        double(6) if bias else None,
        double(8, 6),
        double(8, 6),
        double(5, 6),
    )
    check_values_and_gradients(
        lambda x, *w: external_attention_block(x.mT, *w, order=order, **options).mT,
        lambda x, *w: reference.external_attention_block(x, *w, **options),
        (double(batch, pixels, 5), *weights),
    )


@pytest.mark.parametrize('num_slots', [8, 32, 64, 256])
def test_orders_agree_at_the_papers_slots(num_slots):
    weights = (
        double(16, 16),
        double(16),
        double(num_slots, 16),
        double(num_slots, 16),
        double(16, 16),
    )
    check_values_and_gradients(
        lambda *inputs: external_attention_block(*inputs, order='folded'),
        lambda *inputs: external_attention_block(*inputs, order='plain'),
        (double(2, 16, 7 * 11), *weights),
    )


@pytest.mark.parametrize(('normalization', 'eps'), NORMS)
def test_gradcheck(normalization, eps):
    inputs = (double(1, 3, 5), double(4, 3), double(4, 2))
    assert torch.autograd.gradcheck(
        lambda *args: external_attention(*args, normalization=normalization, eps=eps),
        inputs,
    )


def test_non_contiguous_input():
    x = torch.randn(7, 5, 2).permute(2, 1, 0)
    key, value = torch.randn(8, 5), torch.randn(8, 4)
    assert_close(
        external_attention(x, key, value),
        external_attention(x.contiguous(), key, value),
    )


@pytest.mark.parametrize(('normalization', 'eps'), NORMS)
def test_pixels_and_slots_may_be_anywhere(normalization, eps):
    options = dict(normalization=normalization, eps=eps)
    logits = torch.randn(2, 3, 5, 7)  # (B, h, S, N)
    expected = normalize_logits(logits, **options).permute(0, 3, 1, 2)
    tokens_first = logits.permute(0, 3, 1, 2)
    attn = normalize_logits(tokens_first, slot_dim=-1, pixel_dim=1, **options)
    assert_close(attn, expected)


def test_double_normalization_by_hand():
    """Two slots, two pixels: softmax over pixels first, L1 norm over slots second."""
    logits = torch.tensor([[[0.0, 1.0], [0.0, 3.0]]]).log1p()  # exp: [1, 2], [1, 4]
    over_pixels = torch.tensor([[1 / 3, 2 / 3], [1 / 5, 4 / 5]])
    expected = over_pixels / over_pixels.sum(dim=0)
    assert_close(normalize_logits(logits)[0], expected)
    assert_close(expected[:, 0], torch.tensor([5 / 8, 3 / 8]))


@pytest.mark.parametrize('normalization', ['double', 'softmax'])
def test_slot_weights_sum_to_one(normalization):
    attn = normalize_logits(10 * torch.randn(2, 8, 21), normalization=normalization)
    assert_close(attn.sum(dim=-2), torch.ones(2, 21))


def test_eps_lets_far_pixels_have_less_than_weight_one():
    logits = torch.zeros(1, 4, 9)
    logits[..., 0] = -60.0
    assert normalize_logits(logits)[..., 0].sum() == pytest.approx(1)
    assert normalize_logits(logits, eps=1e-9)[..., 0].sum() < 1e-9


@pytest.mark.parametrize('normalization', ['double', 'softmax'])
def test_pixels_can_be_permuted(normalization):
    x, key, value = torch.randn(1, 5, 21), torch.randn(8, 5), torch.randn(8, 4)
    order = torch.randperm(21)
    out = external_attention(x, key, value, normalization=normalization)
    permuted = external_attention(
        x[..., order], key, value, normalization=normalization
    )
    assert_close(permuted, out[..., order])


@pytest.mark.parametrize('order', ['plain', 'folded'])
def test_query_bias_has_no_effect_under_double_normalization(order):
    weights = [torch.randn(6, 5), None, *(torch.randn(8, 6) for _ in 'kv')]
    weights.append(torch.randn(5, 6))
    x, bias = torch.randn(2, 5, 21), torch.randn(6, requires_grad=True)
    without = external_attention_block(x, *weights, order=order)
    weights[1] = bias
    out = external_attention_block(x, *weights, order=order)
    assert_close(out, without, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(out.square().sum(), bias)
    assert gradient.abs().max() < 1e-4  # in the graph, and zero but for rounding
    if order == 'folded':
        assert gradient.abs().max() == 0


def test_query_bias_matters_under_softmax_over_slots():
    weights = [torch.randn(6, 5), None, *(torch.randn(8, 6) for _ in 'kv')]
    weights.append(torch.randn(5, 6))
    x = torch.randn(2, 5, 21)
    without = external_attention_block(x, *weights, normalization='softmax')
    weights[1] = torch.randn(6)
    out = external_attention_block(x, *weights, normalization='softmax')
    assert (out - without).abs().max() > 0.01


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(('normalization', 'eps'), NORMS)
def test_half_precision_reduces_in_float32(dtype, normalization, eps):
    """Logits of +-5e4 over many pixels stay finite and close to float64."""
    logits = torch.empty(1, 64, 4096).uniform_(-5e4, 5e4).to(dtype)
    logits[0, :, 0] = 5e4
    logits.requires_grad_()
    options = dict(normalization=normalization, eps=eps)
    attn = normalize_logits(logits, **options)
    assert attn.dtype == dtype
    attn.square().sum().backward()
    assert logits.grad.isfinite().all()
    exact = normalize_logits(logits.detach().double(), **options)
    half = torch.finfo(dtype).eps
    assert_close(attn.double(), exact, rtol=half, atol=half)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_sums_over_many_pixels(dtype):
    """Equal logits: in half precision a sum of 16384 ones would stop long before."""
    logits = torch.zeros(1, 8, 16384, dtype=dtype)
    attn = normalize_logits(logits, eps=1e-9)
    assert_close(attn, torch.full_like(attn, 1 / 8))


def test_autocast_reduces_in_float32():
    logits = torch.zeros(1, 8, 16384, dtype=torch.bfloat16)
    logits[..., ::2] = 1
    with torch.autocast('cpu', torch.bfloat16):
        attn = normalize_logits(logits)
    exact = normalize_logits(logits.double())
    assert_close(attn.double(), exact, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda x, k, v: external_attention(x, k, v, normalization='l2'),
            "normalization must be one of 'double', 'softmax', got 'l2'",
        ),
        (
            lambda x, k, v: external_attention(x, k, v, eps=-1),
            'eps must be >= 0',
        ),
        (
            lambda x, k, v: external_attention(
                x, k, v, normalization='softmax', eps=1e-9
            ),
            "eps=1e-09 with normalization='softmax'",
        ),
        (
            lambda x, k, v: external_attention(x, k, v[1:]),
            r'value must be \(S, D\) with the S of key \(8, 5\), got \(7, 4\)',
        ),
        (
            lambda x, k, v: external_attention(x.mT, k, v),
            r'x must be \(..., 5, N\) to fit key \(8, 5\), got \(2, 21, 5\)',
        ),
        (
            lambda x, k, v: external_attention_block(x, k, None, v, v, k, order='fold'),
            "order must be one of 'auto', 'folded', 'plain', got 'fold'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(2, 5, 21), torch.randn(8, 5), torch.randn(8, 4))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [True, False])
def test_moments_are_taken_in_float32(dtype, autocast):
    attn = normalize_logits(0.1 * torch.randn(2, 16, 999)).to(dtype)
    value = torch.randn(16, 5).to(dtype)
    with torch.autocast('cpu', dtype, enabled=autocast):
        mean, var = product_moments(value, attn)
    assert mean.dtype == var.dtype == torch.float32
    product = value.double().T @ attn.double()
    assert_close(mean.double(), product.mean(dim=(0, 2)), rtol=1e-4, atol=1e-6)
    assert_close(var.double(), product.var(dim=(0, 2), correction=0), rtol=1e-3, atol=0)
