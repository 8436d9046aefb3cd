"""LESA's context term: the fast forms equal the loops of the specification."""

import pytest
import torch
from torch.testing import assert_close

from attn_plugins.functional import (
    content_moments,
    flat_similarities,
    flat_values,
    own_weight,
    position_moments,
    reference,
    relative_attention,
)
from attn_plugins.functional.lesa import moments

# One pixel, one row, one column, odd sides, more columns than rows.
SIZES = [(1, 1), (1, 6), (5, 1), (3, 5), (4, 3)]
# Similarities at once: one query, parts of a row, one head, everything.
BLOCKS = [1, 40, 100, None]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def inputs(height, width, batch=2, heads=2, qk=3, value=5):
    return (
        double(batch, heads, qk, height, width),
        double(batch, heads, qk, height, width),
        double(batch, heads, value, height, width),
        double(2 * height - 1, qk),
        double(2 * width - 1, qk),
    )


def attention(q, k, v, rel_h, rel_w, **options):
    """The fast form with tables that the heads share, and no norm."""
    heads = q.shape[1]
    tables = (table.expand(heads, -1, -1) for table in (rel_h, rel_w))
    return relative_attention(q, k, v, *tables, **options)


def check_values_and_gradients(fast, slow, leaves) -> None:
    out, expected = fast(*leaves), slow(*leaves)
    assert_close(out, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((out * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_blocks_equal_reference(height, width, block):
    check_values_and_gradients(
        lambda *leaves: attention(*leaves, block=block),
        lambda *leaves: reference.lesa_attention(*leaves, norm=lambda x: x),
        inputs(height, width),
    )


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_sdpa_equals_reference(height, width):
    check_values_and_gradients(
        lambda *leaves: attention(*leaves, impl='sdpa'),
        lambda *leaves: reference.lesa_attention(*leaves, norm=lambda x: x),
        inputs(height, width),
    )


@pytest.mark.parametrize('value', [1, 20])
def test_values_of_other_widths(value):
    """Narrower and wider than the one-hot channels that 'sdpa' adds."""
    leaves = inputs(3, 4, value=value)
    for impl in ('blocks', 'sdpa'):
        check_values_and_gradients(
            lambda *leaves, impl=impl: attention(*leaves, impl=impl),
            lambda *leaves: reference.lesa_attention(*leaves, norm=lambda x: x),
            leaves,
        )


def test_blocks_equal_sdpa_on_a_larger_map():
    check_values_and_gradients(
        lambda *leaves: attention(*leaves, block=1000),
        lambda *leaves: attention(*leaves, impl='sdpa'),
        inputs(13, 11, qk=4, value=6),
    )


def test_tables_of_each_head():
    q, k, v, *_ = inputs(3, 5)
    rel_h, rel_w = double(2, 5, 3), double(2, 9, 3)
    for impl in ('blocks', 'sdpa'):
        out = relative_attention(q, k, v, rel_h, rel_w, impl=impl)
        for head in range(2):
            one = slice(head, head + 1)
            alone = reference.lesa_attention(
                q[:, one], k[:, one], v[:, one], rel_h[head], rel_w[head], lambda x: x
            )
            assert_close(out[:, one], alone)


@pytest.mark.parametrize('impl', ['blocks', 'sdpa'])
def test_gradcheck(impl):
    leaves = inputs(3, 2, batch=1, qk=2, value=3)
    assert torch.autograd.gradcheck(
        lambda *args: attention(*args, impl=impl, block=20), leaves
    )


def test_non_contiguous_input():
    q, k, v, rel_h, rel_w = inputs(3, 5)
    swapped = [t.detach().transpose(3, 4).contiguous().mT for t in (q, k, v)]
    assert not swapped[0].is_contiguous()
    assert_close(
        attention(*swapped, rel_h.detach(), rel_w.detach()),
        attention(q, k, v, rel_h, rel_w).detach(),
    )


@pytest.mark.parametrize('shape', [(2, 1, 1, 1), (1, 2, 4, 3), (3, 2, 3, 5)])
def test_moments_equal_those_of_the_similarities(shape):
    batch, heads, height, width = shape
    q, k, _, rel_h, rel_w = inputs(height, width, batch, heads)
    terms = reference.lesa_similarities(q, k, rel_h, rel_w)
    means, variances = zip(
        content_moments(q, k), position_moments(q, rel_h, rel_w), strict=True
    )
    dims = (0, 2, 3)
    for found, expected in (
        (means, terms.mean(dims)),
        (variances, terms.var(dims, unbiased=False)),
    ):
        moment = torch.cat(found)
        assert_close(moment, expected, rtol=1e-10, atol=1e-12)
        weight = torch.randn_like(expected)
        leaves = (q, k, rel_h, rel_w)
        gradients, wanted = (
            torch.autograd.grad((m * weight).sum(), leaves, retain_graph=True)
            for m in (moment, expected)
        )
        for gradient, want in zip(gradients, wanted, strict=True):
            assert_close(gradient, want, rtol=1e-9, atol=1e-11)


def test_moments_of_large_means_do_not_cancel():
    """In float32, where the difference of two squares would have no digit left."""
    q, k, _, rel_h, rel_w = (t.detach() for t in inputs(3, 5))
    q, k = q + 1e3, k + 1e3
    rel_h = rel_h + 1e3
    terms = reference.lesa_similarities(q, k, rel_h, rel_w)
    expected = terms.var((0, 2, 3), unbiased=False)
    single = [t.float() for t in (q, k, rel_h, rel_w)]
    content = content_moments(*single[:2])[1]
    position = position_moments(single[0], *single[2:])[1]
    assert_close(torch.cat([content, position]).double(), expected, rtol=1e-3, atol=0)


def test_moments_under_autocast_are_float32():
    q, k, _, rel_h, rel_w = (t.detach().float() for t in inputs(3, 5))
    wanted = content_moments(q, k), position_moments(q, rel_h, rel_w)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = content_moments(q, k), position_moments(q, rel_h, rel_w)
    assert_close(found, wanted)


@pytest.mark.parametrize('block', BLOCKS)
def test_own_weight_is_the_diagonal(block):
    q, k, _, rel_h, rel_w = inputs(3, 5)
    content, position = reference.lesa_similarities(q, k, rel_h, rel_w).chunk(2, 1)
    diagonal = (content + position).softmax(-1).diagonal(dim1=-2, dim2=-1)
    own = own_weight(
        q, k, rel_h.expand(2, -1, -1), rel_w.expand(2, -1, -1), block=block
    )
    assert_close(own, diagonal.detach().view(own.shape))
    assert not own.requires_grad


@pytest.mark.parametrize('shape', [(2, 1, 4, 3), (1, 2, 3, 9)])
def test_moments_in_blocks_equal_moments_at_once(monkeypatch, shape):
    batch, heads, height, width = shape
    q, _, _, rel_h, rel_w = inputs(height, width, batch, heads)

    def step(q, rel_h, rel_w):
        return torch.cat(position_moments(q, rel_h, rel_w))

    def in_blocks(*leaves):
        with monkeypatch.context() as patch:
            patch.setattr(moments, '_MAX_WINDOW_ELEMENTS', 20)
            return step(*leaves)

    check_values_and_gradients(in_blocks, step, (q, rel_h, rel_w))


def test_no_image():
    leaves = inputs(3, 5, batch=0)
    assert attention(*leaves).shape == (0, 2, 5, 3, 5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('impl', ['blocks', 'sdpa'])
def test_half_precision(dtype, impl):
    leaves = [t.detach().float() for t in inputs(5, 7)]
    expected = attention(*leaves)
    out = attention(*(t.to(dtype) for t in leaves), impl=impl)
    assert out.dtype == dtype
    # Eight bits of bfloat16's mantissa, of inputs and tables of size 1.
    assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_autocast_leaves_blocks_in_the_inputs_type():
    leaves = [t.detach().float() for t in inputs(5, 7)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = attention(*leaves)
    assert_close(out, attention(*leaves))


def test_memory_is_linear_in_the_pixels(monkeypatch):
    """No tensor of a step is larger than a block or a few maps."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    size = tensor.untyped_storage().nbytes() // tensor.element_size()
                    self.numel = max(self.numel, size)
            return out

    monkeypatch.setattr(moments, '_MAX_WINDOW_ELEMENTS', 2048)

    def largest(height: int, width: int) -> int:
        leaves = inputs(height, width, batch=1, heads=2, qk=4, value=8)
        with Largest() as mode:
            out = attention(*leaves, block=2048)
            out.sum().backward()
            content_moments(*leaves[:2])[1].sum().backward()
            position_moments(leaves[0], *leaves[3:])[1].sum().backward()
        return mode.numel

    small = largest(12, 12)
    assert small <= 2048 * 2
    assert largest(24, 24) <= 4 * small
    # One side counts for the D x D covariances of its windows as well.
    for size in ((1, 576), (576, 1), (8, 72)):
        assert largest(*size) <= 8 * small < 2 * 576**2


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 4), (4, 1), (3, 4), (4, 4)])
def test_flat_form_equals_reference(height, width):
    """On maps up to the table's 4 x 4."""
    q, k, v, *_ = inputs(height, width)
    rel = double(2 * 3 + 5, 2 * 4**2 - 1)

    def fast(q, k, v, rel):
        logits = flat_similarities(q, k, rel, 4).sum(1)
        return flat_values(logits.softmax(-1), v, rel, 4)

    check_values_and_gradients(
        fast,
        lambda *leaves: reference.lesa_flat_attention(*leaves, 4, lambda x: x),
        (q, k, v, rel),
    )


def test_flat_form_refuses_larger_maps():
    q = torch.randn(1, 1, 2, 3, 5)
    with pytest.raises(ValueError, match=r'up to 4 x 4, got 3 x 5'):
        flat_similarities(q, q, torch.randn(6, 31), 4)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(impl='fast'),
            r"impl must be one of 'auto', 'blocks', 'sdpa', got 'fast'",
        ),
        (dict(block=0), r'block must be a positive integer or None, got 0'),
        (dict(q=torch.randn(2, 2, 3, 15)), r'q must be \(B, h, D, H, W\)'),
        (dict(rel_h=torch.randn(2, 4, 3)), r'rel_h must be \(2, 5, 3\)'),
        (dict(rel_w=torch.randn(1, 9, 3)), r'rel_w must be \(2, 9, 3\)'),
        (dict(k=torch.randn(2, 2, 4, 3, 5)), r'k must be \(2, 2, 3, 3, 5\)'),
        (dict(v=torch.randn(2, 2, 4, 5, 3)), r'v must be \(2, 2, 4, 3, 5\)'),
    ],
)
def test_bad_input(change, message):
    q, k, v, *_ = (t.detach() for t in inputs(3, 5))
    fine = dict(q=q, k=k, v=v, rel_h=torch.randn(2, 5, 3), rel_w=torch.randn(2, 9, 3))
    with pytest.raises(ValueError, match=message):
        relative_attention(**{**fine, **change})
