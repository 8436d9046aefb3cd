"""Relative attention a block of queries at a time: memory linear in the pixels.

A block's similarities are forgotten, backward computes them again.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..checks import check_choice
from ..exporting import is_exporting
from ..relpos import position_windows
from .plain import fused_attention, plain_attention

Impl = Literal['auto', 'blocks', 'sdpa']

IMPLS = ('auto', 'blocks', 'sdpa')


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    impl: Impl = 'auto',
    block: int | None = None,
) -> Tensor:
    """Attention of every pixel to all, with relative positions on the query (eq. 1).

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        v: ``(B, h, V, H, W)``.
        rel_h: Tables of vertical offsets, ``(h, 2 * H - 1, D)``; row ``o + H - 1`` is
            that of a key o rows below its query.
        rel_w: Tables of horizontal offsets, ``(h, 2 * W - 1, D)``.
        impl: 'blocks' takes a block of queries after the other, and memory that grows
            linearly with the pixels. 'sdpa' hands the whole to torch's fused attention,
            positions as one-hot channels: its memory grows as ``N ** 1.5``. 'auto' is
            'blocks'.
        block: Similarities in memory at once, for 'blocks'.

    Returns:
        ``(B, h, V, H, W)``.

    Raises:
        ValueError: If ``impl`` is unknown or shapes do not fit.
    """
    check_shapes(q, k, v, rel_h, rel_w)
    if is_exporting():
        return plain_attention(q, k, v, rel_h, rel_w)
    if impl == 'sdpa':
        return fused_attention(q, k, v, rel_h.to(q.dtype), rel_w.to(q.dtype))
    if impl not in IMPLS:
        check_choice('impl', impl, IMPLS)
    if block is None:
        block = logits_per_block(q)
    elif block < 1:
        raise ValueError(f'block must be a positive integer or None, got {block!r}')
    # Compiled, the loop is one operator: unrolled it would be a graph of hundreds of
    # blocks. Otherwise it is not: flop counters see what an autograd function does, but
    # not into an operator.
    compiled = torch.compiler.is_compiling()
    attend = _operator if compiled else _BlockedAttention.apply
    with torch.autocast(q.device.type, enabled=False):
        if q.shape[4] <= q.shape[3]:
            return attend(q, k, v, rel_h, rel_w, block)
        # A block holds windows for all pairs of columns: let columns be the fewer.
        q, k, v = (t.transpose(3, 4) for t in (q, k, v))
        return attend(q, k, v, rel_w, rel_h, block).transpose(3, 4)


def logits_per_block(q: Tensor) -> int:
    """Logits that are in memory at once: those of a CPU, 4 MB, fit its cache."""
    return 2**20 if q.is_cpu else 2**26


def check_shapes(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> None:
    """Raises ``ValueError`` unless these fit as in :func:`relative_attention`."""
    if q.ndim != 5:
        raise ValueError(f'q must be (B, h, D, H, W), got {tuple(q.shape)}')
    batch, heads, width, *size = q.shape
    expected = {
        'k': (k, (batch, heads, width, *size)),
        'v': (v, (batch, heads, v.shape[2], *size)),
        'rel_h': (rel_h, (heads, 2 * size[0] - 1, width)),
        'rel_w': (rel_w, (heads, 2 * size[1] - 1, width)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(
                f'{name} must be {shape} to fit q {tuple(q.shape)}, '
                f'got {tuple(tensor.shape)}'
            )


class Block(NamedTuple):
    """Some heads of the batch, and a run of queries in one row of the map."""

    heads: slice
    row: int
    columns: slice


def blocks(heads: int, height: int, width: int, size: int) -> Iterator[Block]:
    """Cuts the queries into blocks of about ``size`` similarities."""
    keys = height * width
    columns = min(width, max(1, size // keys))
    group = max(1, min(heads, size // (keys * columns)))
    for head in range(0, heads, group):
        for row in range(height):
            for column in range(0, width, columns):
                yield Block(
                    slice(head, head + group),
                    row,
                    slice(column, min(column + columns, width)),
                )


class Similarity:
    """Computes the logits of a block of queries.

    The keys of one row of queries share their vertical offsets, so that term is added
    to the keys, D numbers each. The horizontal one is added to the logits.
    """

    def __init__(self, q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor) -> None:
        batch = len(q)
        self.height, self.width = q.shape[3:]
        dtype = torch.promote_types(q.dtype, torch.float32)
        # Batch and heads are one axis here.
        self.q = q.to(dtype).flatten(0, 1)
        self.k = k.to(dtype).flatten(0, 1)
        self.rel_h = rel_h.to(dtype).mT.repeat(batch, 1, 1)  # (Bh, D, 2H - 1)
        # Offsets of all columns from the i-th: (Bh, W_i, D, W_j).
        windows = position_windows(rel_w.to(dtype), self.width)
        self.rel_w = windows.repeat(batch, 1, 1, 1)

    def of(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of a block, keys with the vertical offsets of its row, and logits.

        Returns:
            ``(heads, queries, D)``, ``(heads, D, N)``, ``(heads, queries, N)``.
        """
        q = self.q[block.heads, :, block.row, block.columns].mT
        start = self.height - 1 - block.row
        offsets = self.rel_h[block.heads, :, start : start + self.height]
        k = (self.k[block.heads] + offsets.unsqueeze(-1)).flatten(2)
        logits = q @ k
        horizontal = q.unsqueeze(2) @ self.rel_w[block.heads, block.columns]
        rows = logits.unflatten(-1, (self.height, self.width))
        rows += horizontal  # (heads, queries, 1, W)
        return q, k, logits


def _forward(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, size: int
) -> Tensor:
    similarity = Similarity(q, k, rel_h, rel_w)
    batch, heads, _, height, width = q.shape
    values = v.to(similarity.q.dtype).flatten(3).flatten(0, 1).mT  # (Bh, N, V)
    out = values.new_empty(batch * heads, v.shape[2], height, width)
    for part in blocks(batch * heads, height, width, size):
        attn = similarity.of(part)[2].softmax(dim=-1)  # over keys
        here = out[part.heads, :, part.row, part.columns]
        here.copy_((attn @ values[part.heads]).mT)
    return out.unflatten(0, (batch, heads)).to(v.dtype)


def _gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    out: Tensor,
    grad: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (q, k, v, rel_h, rel_w)
    similarity = Similarity(q, k, rel_h, rel_w)
    batch, heads, _, height, width = q.shape
    dtype = similarity.q.dtype
    values = v.to(dtype).flatten(3).flatten(0, 1)  # (Bh, V, N)
    grad = grad.to(dtype).flatten(0, 1)  # (Bh, V, H, W)
    # Of a softmax s = attn * (grad_attn - delta).
    delta = (grad * out.to(dtype).flatten(0, 1)).sum(dim=1)  # (Bh, H, W)
    grad_q, grad_k, grad_v, grad_h, grad_w = (
        t.new_zeros(t.shape)
        for t in (
            similarity.q,
            similarity.k.flatten(2),
            values,
            similarity.rel_h,
            similarity.rel_w,
        )
    )
    for part in blocks(batch * heads, height, width, size):
        queries, keys, attn = similarity.of(part)
        attn = attn.softmax(dim=-1)  # the same name, so that the logits make room
        grad_out = grad[part.heads, :, part.row, part.columns]
        grad_v[part.heads].baddbmm_(grad_out, attn)
        s = grad_out.mT @ values[part.heads]
        s -= delta[part.heads, part.row, part.columns].unsqueeze(-1)
        s *= attn
        # ... through the keys, which carry the vertical offsets,
        into_keys = queries.mT @ s
        grad_k[part.heads] += into_keys
        start = height - 1 - part.row
        grad_h[part.heads, :, start : start + height] += into_keys.unflatten(
            -1, (height, width)
        ).sum(-1)
        into_queries = (s @ keys.mT).mT
        # ... and through the horizontal offsets.
        s = s.unflatten(-1, (height, width)).sum(dim=2)  # (heads, queries, W)
        offsets = similarity.rel_w[part.heads, part.columns]
        into_queries += (offsets @ s.unsqueeze(-1)).squeeze(-1).mT
        grad_q[part.heads, :, part.row, part.columns] = into_queries
        grad_w[part.heads, part.columns] += queries.unsqueeze(-1) * s.unsqueeze(2)
    gradients = (
        grad_q.view(q.shape),
        grad_k.view(k.shape),
        grad_v.view(v.shape),
        grad_h.unflatten(0, (batch, heads)).sum(0).mT,
        _sum_windows(grad_w.unflatten(0, (batch, heads)).sum(0)),
    )
    return tuple(
        g.to(t.dtype).contiguous() for g, t in zip(gradients, inputs, strict=True)
    )


def _sum_windows(windows: Tensor) -> Tensor:
    """Sums windows ``(h, W, D, W)`` up to the table they were cut from."""
    heads, width, channels, _ = windows.shape
    table = windows.new_zeros(heads, 2 * width - 1, channels)
    for column in range(width):
        start = width - 1 - column
        table[:, start : start + width] += windows[:, column].mT
    return table


def _setup_context(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.size = inputs
    ctx.save_for_backward(*tensors, output)


class _BlockedAttention(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):
            return *_gradients(*ctx.saved_tensors, grad, ctx.size), None


_operator = torch.library.custom_op(
    'attn_plugins::relative_attention', _forward, mutates_args=()
)
_gradients_operator = torch.library.custom_op(
    'attn_plugins::relative_attention_backward', _gradients, mutates_args=()
)


@_operator.register_fake
def _fake(q, k, v, rel_h, rel_w, size):
    return v.new_empty(v.shape)


@_gradients_operator.register_fake
def _fake_gradients(q, k, v, rel_h, rel_w, out, grad, size):
    return tuple(t.new_empty(t.shape) for t in (q, k, v, rel_h, rel_w))


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients_operator(*ctx.saved_tensors, grad, ctx.size), None


_operator.register_autograd(_backward, setup_context=_setup_context)
