"""Global self-attention: the fast forms equal the loops of the specification."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from attn_plugins.functional import (
    axial_attention,
    axial_position_attention,
    content_attention,
    position_keys,
    reference,
)
from attn_plugins.functional.relpos import resize_table

# Batch, heads, height, width: single lines and pixels, odd, not square.
SIZES = [(1, 1, 1, 1), (2, 2, 1, 4), (1, 2, 5, 1), (2, 1, 3, 4), (1, 2, 4, 3)]
AXES = {'columns': (2, 3), 'rows': (3, 2)}
# 1 attends to the nearest, 4 reaches as far as the largest of these maps or farther.
SHIFTS = [None, 1, 4]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def to_lines(x: torch.Tensor, axis: str) -> torch.Tensor:
    """``(B, h, H, W, D)`` to ``(L, M, D)``."""
    along, across = AXES[axis]
    return x.permute(along, across, 0, 1, 4).flatten(1, 3)


def from_lines(x: torch.Tensor, shape: tuple[int, ...], axis: str) -> torch.Tensor:
    """``(M, D, L)`` to ``(B, h, H, W, D)``."""
    x = x.view(shape[AXES[axis][1]], *shape[:2], *x.shape[1:])
    return x.permute(1, 2, 4, 0, 3) if axis == 'columns' else x.permute(1, 2, 0, 4, 3)


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    """``(B, h, H, W, D)`` to ``(N, M, D)``."""
    return x.permute(2, 3, 0, 1, 4).flatten(2, 3).flatten(0, 1)


def check_values_and_gradients(fast, slow, inputs) -> None:
    """Compares outputs and the gradient of a random projection of them."""
    out, expected = fast(*inputs), slow(*inputs)
    assert_close(out, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('size', SIZES)
def test_content_equals_reference(size):
    def fast(q, k, v):
        out = content_attention(to_pixels(q), to_pixels(k), to_pixels(v))
        return out.mT.view(v.shape)

    inputs = double(*size, 3), double(*size, 3), double(*size, 2)
    check_values_and_gradients(fast, reference.gsa_content, inputs)


def reference_table(table, size, max_shift):
    """The loops want a row for every offset of the map."""
    return resize_table(table, size) if max_shift is None else table


@pytest.mark.parametrize('block_size', [1, 40, 2**24])
@pytest.mark.parametrize('max_shift', SHIFTS)
@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('size', SIZES)
def test_position_equals_reference(size, axis, max_shift, block_size):
    length = size[AXES[axis][0]]

    def fast(q, v, table):
        q, out_shape = to_lines(q, axis), v.shape
        options = dict(max_shift=max_shift, block_size=block_size)
        out = axial_position_attention(q, to_lines(v, axis), table, **options)
        return from_lines(out, out_shape, axis)

    def slow(q, v, table):
        attend = getattr(reference, f'gsa_{axis}')
        table = reference_table(table, length, max_shift)
        return attend(q, v, table, max_shift=max_shift)

    rows = 2 * (length if max_shift is None else max_shift + 1) - 1
    inputs = double(*size, 3), double(*size, 2), double(rows, 3)
    check_values_and_gradients(fast, slow, inputs)


@pytest.mark.parametrize('block_size', [1, 40, 2**24])
@pytest.mark.parametrize('max_shift', SHIFTS)
@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('size', SIZES)
def test_axial_alternative_equals_reference(size, axis, max_shift, block_size):
    length = size[AXES[axis][0]]

    def fast(q, k, v, table):
        lines = (to_lines(x, axis) for x in (q, k, v))
        options = dict(max_shift=max_shift, block_size=block_size)
        return from_lines(axial_attention(*lines, table, **options), v.shape, axis)

    def slow(q, k, v, table):
        attend = getattr(reference, f'gsa_axial_{axis}')
        table = reference_table(table, length, max_shift)
        return attend(q, k, v, table, max_shift=max_shift)

    rows = 2 * (length if max_shift is None else max_shift + 1) - 1
    inputs = double(*size, 3), double(*size, 3), double(*size, 2), double(rows, 3)
    check_values_and_gradients(fast, slow, inputs)


@pytest.mark.parametrize('table_size', [1, 2, 3, 6, 9])
def test_tables_of_other_sizes_equal_reference(table_size):
    """Five positions: shorter tables are stretched, longer ones sliced."""

    def fast(q, v, table):
        out = axial_position_attention(
            to_lines(q, 'columns'), to_lines(v, 'columns'), table
        )
        return from_lines(out, v.shape, 'columns')

    def slow(q, v, table):
        return reference.gsa_columns(q, v, resize_table(table, 5, keep_sum=True))

    inputs = double(1, 2, 5, 2, 3), double(1, 2, 5, 2, 2), double(2 * table_size - 1, 3)
    check_values_and_gradients(fast, slow, inputs)


@pytest.mark.parametrize('max_shift', SHIFTS)
def test_keys_depend_on_the_offset_alone(max_shift):
    size = 4
    rows = 2 * (size if max_shift is None else max_shift + 1) - 1
    table = torch.randn(rows, 3)
    keys = position_keys(table, size, max_shift=max_shift)
    for x in range(size):
        for i in range(size):
            far = max_shift is not None and abs(i - x) > max_shift
            expected = torch.zeros(3) if far else table[i - x + rows // 2]
            assert torch.equal(keys[x, :, i], expected), (x, i)


def test_position_by_hand():
    """q = 1 and v = (1, 10, 100): each output reads off three rows of the table."""
    table = torch.arange(5.0)[:, None]  # offsets -2 .. 2 count 0 .. 4 times
    q, v = torch.ones(3, 1, 1), torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    out = axial_position_attention(q, v, table)
    assert out.flatten().tolist() == [432, 321, 210]


def test_gradcheck_content():
    inputs = double(4, 2, 2), double(4, 2, 2), double(4, 2, 1)
    assert torch.autograd.gradcheck(content_attention, inputs)


@pytest.mark.parametrize('max_shift', [None, 1])
@pytest.mark.parametrize('block_size', [9, 2**24])
def test_gradcheck_along_an_axis(max_shift, block_size):
    options = dict(max_shift=max_shift, block_size=block_size)
    q, k, v = double(3, 2, 2), double(3, 2, 2), double(3, 2, 1)
    table = double(5 if max_shift is None else 3, 2)
    assert torch.autograd.gradcheck(
        lambda *x: axial_position_attention(*x, **options), (q, v, table)
    )
    assert torch.autograd.gradcheck(
        lambda *x: axial_attention(*x, **options), (q, k, v, table)
    )


def test_content_does_not_see_where_pixels_are():
    q, k, v = (torch.randn(21, 2, 4, dtype=torch.float64) for _ in 'qkv')
    order = torch.randperm(21)
    out = content_attention(q, k, v)
    permuted = content_attention(q[order], k[order], v[order])
    assert_close(permuted, out[..., order])


def test_content_ignores_what_is_added_to_all_keys():
    q, k, v = (torch.randn(21, 2, 4, dtype=torch.float64) for _ in 'qkv')
    assert_close(content_attention(q, k + 5, v), content_attention(q, k, v))


def test_queries_are_not_normalised():
    q, k, v = (torch.randn(21, 2, 4, dtype=torch.float64) for _ in 'qkv')
    out = content_attention(q, k, v)
    assert_close(content_attention(3 * q, k, v), 3 * out)
    constant = content_attention(q, k, torch.ones_like(v))
    assert_close(constant[:, 0], q.sum(dim=-1).T)


def test_a_table_of_zeros_gives_zero():
    q, v = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    assert axial_position_attention(q, v, torch.zeros(9, 4)).abs().max() == 0


def test_the_alternative_without_table_is_softmax_attention_of_a_line():
    q, k, v = (torch.randn(5, 3, 4) for _ in 'qkv')
    lines = (x.transpose(0, 1) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*lines, scale=1)
    assert_close(axial_attention(q, k, v, torch.zeros(9, 4)), expected.mT)


def test_linear_in_values():
    q, k, table = torch.randn(5, 3, 4), torch.randn(5, 3, 4), torch.randn(9, 4)
    v, w = torch.randn(2, 5, 3, 6)
    for attend in (
        lambda v: content_attention(q, k, v),
        lambda v: axial_position_attention(q, v, table),
        lambda v: axial_attention(q, k, v, table),
    ):
        assert_close(attend(2 * v - w), 2 * attend(v) - attend(w))


def test_a_shifted_line_is_attended_to_alike():
    """Pixels 2 .. 4 of a longer, empty line give what they give on their own."""
    table = torch.randn(13, 4, dtype=torch.float64)
    q, v = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    alone = axial_position_attention(q, v, table)
    for start in range(5):
        longer_q, longer_v = torch.zeros(2, 7, 1, 4, dtype=torch.float64)
        longer_q[start : start + 3], longer_v[start : start + 3] = q, v
        out = axial_position_attention(longer_q, longer_v, table)
        assert_close(out[..., start : start + 3], alone)


def test_reach_stops_at_max_shift():
    q, k, v = (torch.randn(7, 1, 3) for _ in 'qkv')
    table = torch.randn(5, 3)
    other = v.clone()
    other[5:] += 1
    for attend in (
        lambda v: axial_position_attention(q, v, table, max_shift=2),
        lambda v: axial_attention(q, k, v, table, max_shift=2),
    ):
        changed = (attend(other) - attend(v)).abs().amax(dim=(0, 1)) > 1e-6
        assert changed.tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize('max_shift', [None, 2])
def test_non_contiguous_input(max_shift):
    q, k, v = (
        torch.randn(4, 3, 5, dtype=torch.float64).permute(2, 1, 0) for _ in 'qkv'
    )
    table = torch.randn(9 if max_shift is None else 5, 4, dtype=torch.float64)
    plain = [x.contiguous() for x in (q, k, v)]
    options = dict(max_shift=max_shift)
    assert_close(content_attention(q, k, v), content_attention(*plain))
    assert_close(
        axial_position_attention(q, v, table, **options),
        axial_position_attention(plain[0], plain[2], table, **options),
    )
    assert_close(
        axial_attention(q, k, v, table, **options),
        axial_attention(*plain, table, **options),
    )


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def largest_of_a_step(H: int, W: int, **options) -> int:
    """Elements of the largest tensor in forward and backward: 2 heads, 4 channels."""
    h, D = 2, 4
    q, k, v = (torch.randn(H, W * h, D, requires_grad=True) for _ in 'qkv')
    table = torch.randn(2 * H - 1, D, requires_grad=True)
    pixels = [x.view(H * W, h, D) for x in (q, k, v)]
    with LargestTensor() as largest:
        out = content_attention(*pixels).sum()
        out = out + axial_position_attention(q, v, table, **options).sum()
        out = out + axial_attention(q, k, v, table, **options).sum()
        out.backward()
    return largest.elements


@pytest.mark.parametrize(('H', 'W'), [(12, 16), (24, 32)])
def test_nothing_is_pixels_by_pixels(H, W):
    tokens, heads = H * W, 2
    assert largest_of_a_step(H, W) == tokens * heads * H
    block = 16 * H * H  # 16 lines
    assert largest_of_a_step(H, W, block_size=block) == block > tokens * heads * 4


def test_blocks_are_not_kept_for_backward():
    q, v, table = torch.randn(32, 256, 4), torch.randn(32, 256, 4), torch.randn(63, 4)
    saved = []

    def pack(x):
        saved.append(x.numel())
        return x

    for x in (q, v, table):
        x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        axial_position_attention(q, v, table, block_size=2**14)
    assert max(saved) <= q.numel()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'pure'])
def test_half_precision_is_close_to_float64(dtype, autocast):
    q, k, v = (torch.randn(64, 8, 16, dtype=torch.float64) for _ in 'qkv')
    k = 8 * k
    table = torch.randn(127, 16, dtype=torch.float64) / 8

    def attend(*x):
        q, k, v, table = x
        return (
            content_attention(q, k, v),
            axial_position_attention(q, v, table),
            axial_attention(q, k, v, table, max_shift=None),
        )

    exact = attend(q, k, v, table)
    inputs = [x.float() if autocast else x.to(dtype) for x in (q, k, v, table)]
    with torch.autocast('cpu', dtype, enabled=autocast):
        outputs = attend(*inputs)
    # The last has logits of some ten that are rounded before the softmax.
    factors = (4, 4, 40)
    for out, want, factor in zip(outputs, exact, factors, strict=True):
        assert out.dtype == dtype
        assert out.isfinite().all()
        error = (out.double() - want).norm() / want.norm()
        assert error < factor * torch.finfo(dtype).eps


@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'pure'])
def test_content_averages_many_pixels_in_float32(autocast):
    """Equal weights are 40.5 times the least that float16 holds: rounded, 1 % off."""
    n = int(2**24 / 40.5)
    q, v = torch.ones(n, 1, 1).half(), torch.rand(n, 1, 1).half()
    with torch.autocast('cpu', torch.float16, enabled=autocast):
        out = content_attention(q, torch.zeros_like(q), v)
    expected = v.double().mean().expand_as(out)
    assert_close(out.double(), expected, rtol=0.002, atol=0)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda q, k, v, t: content_attention(q[0], k, v),
            r'q must be \(L, M, D\), got \(3, 4\)',
        ),
        (
            lambda q, k, v, t: content_attention(q, k[..., :2], v),
            r'k must be \(5, 3, 4\) to fit q \(5, 3, 4\), got \(5, 3, 2\)',
        ),
        (
            lambda q, k, v, t: axial_position_attention(q, v[1:], t),
            r'v must be \(5, 3, V\) to fit q \(5, 3, 4\), got \(4, 3, 4\)',
        ),
        (
            lambda q, k, v, t: axial_attention(q, k[:, :2], v, t),
            r'k must be \(5, 3, 4\) .* got \(5, 2, 4\)',
        ),
        (
            lambda q, k, v, t: axial_position_attention(q, v, t[1:]),
            r'table must be \(2 \* R - 1, D\)',
        ),
        (
            lambda q, k, v, t: axial_position_attention(q, v, t, max_shift=2),
            r'table must be \(2 \* max_shift \+ 1, D\) with max_shift=2, got \(9, 4\)',
        ),
        (
            lambda q, k, v, t: axial_attention(q, k, v, t[:, :3]),
            r'table must have the 4 channels of q \(5, 3, 4\), got \(9, 3\)',
        ),
        (
            lambda q, k, v, t: axial_position_attention(q, v, t, max_shift=-1),
            'max_shift must be >= 0 or None, got -1',
        ),
    ],
)
def test_bad_input(call, message):
    q, k, v = (torch.randn(5, 3, 4) for _ in 'qkv')
    with pytest.raises(ValueError, match=message):
        call(q, k, v, torch.randn(9, 4))
