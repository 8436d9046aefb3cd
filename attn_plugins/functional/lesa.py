"""LESA's context term: self-attention with relative positions, in linear memory.

Source: Yang et al., "Locally Enhanced Self-Attention: Combining Self-Attention and
Convolution as Local and Context Terms", arXiv 2107.05637, eq. 1; relative positions on
the query as for detection (section 4.2), and batch norm on the two similarity terms::

    logits_ij = BN_1(q_i . k_j) + BN_2(q_i . (rel_h[y_j - y_i] + rel_w[x_j - x_i]))

The paper's limitation is the N x N similarity. It is not needed, in training either:

* A batch norm's mean and shift are the same for all keys of a query, so the softmax
  over keys drops them; only the two scales matter.
* The statistics that give those scales have closed forms (:func:`content_moments`,
  :func:`position_moments`).
* With the scales multiplied into keys and tables, :func:`relative_attention` works on a
  few queries at a time and forgets their similarities; backward computes them again.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .exporting import is_exporting
from .external import check_choice
from .relpos import position_windows

Impl = Literal['auto', 'blocks', 'sdpa']

IMPLS = ('auto', 'blocks', 'sdpa')

# Similarities that are in memory at once, of one row of queries at most. Those of a CPU
# should stay in its cache.
_CPU_BLOCK = 2**20
_BLOCK = 2**26
# Numbers of a table's windows that are in memory at once.
_WINDOWS_BLOCK = 2**22


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
    check_choice('impl', impl, IMPLS)
    if block is not None and block < 1:
        raise ValueError(f'block must be a positive integer or None, got {block!r}')
    _check_shapes(q, k, v, rel_h, rel_w)
    if is_exporting():
        return _plain_attention(q, k, v, rel_h, rel_w)
    if impl == 'sdpa':
        return _fused_attention(q, k, v, rel_h.to(q.dtype), rel_w.to(q.dtype))
    if q.shape[4] > q.shape[3]:  # a block holds windows for all pairs of columns
        q, k, v = (t.transpose(3, 4) for t in (q, k, v))
        out = relative_attention(q, k, v, rel_w, rel_h, impl=impl, block=block)
        return out.transpose(3, 4)
    size = _block_size(q) if block is None else block
    with torch.autocast(q.device.type, enabled=False):
        if torch.compiler.is_compiling():
            return _compiled_attention(q, k, v, rel_h, rel_w, size)
        return _BlockedAttention.apply(q, k, v, rel_h, rel_w, size)


def _block_size(q: Tensor) -> int:
    return _CPU_BLOCK if q.device.type == 'cpu' else _BLOCK


def _check_shapes(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor
) -> None:
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


class _Block(NamedTuple):
    """Some heads of the batch, and a run of queries in one row of the map."""

    heads: slice
    row: int
    columns: slice


def _blocks(heads: int, height: int, width: int, size: int) -> Iterator[_Block]:
    """Cuts the queries into blocks of about ``size`` similarities."""
    keys = height * width
    columns = min(width, max(1, size // keys))
    group = max(1, min(heads, size // (keys * columns)))
    for head in range(0, heads, group):
        for row in range(height):
            for column in range(0, width, columns):
                yield _Block(
                    slice(head, head + group),
                    row,
                    slice(column, min(column + columns, width)),
                )


class _Similarity:
    """Computes the logits of a block of queries, and their gradients.

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

    def queries(self, block: _Block) -> Tensor:
        """``(heads, queries, D)``."""
        return self.q[block.heads, :, block.row, block.columns].mT

    def keys(self, block: _Block) -> Tensor:
        """Keys with the vertical offsets of the row, ``(heads, D, N)``."""
        start = self.height - 1 - block.row
        offsets = self.rel_h[block.heads, :, start : start + self.height]
        return (self.k[block.heads] + offsets.unsqueeze(-1)).flatten(2)

    def logits(self, block: _Block, q: Tensor, k: Tensor) -> Tensor:
        """``(heads, queries, N)``."""
        logits = q @ k
        horizontal = q.unsqueeze(2) @ self.rel_w[block.heads, block.columns]
        rows = logits.unflatten(-1, (self.height, self.width))
        rows += horizontal  # (heads, queries, 1, W)
        return logits


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, rel_h, rel_w, block):
        out = _forward(q, k, v, rel_h, rel_w, block)
        ctx.save_for_backward(q, k, v, rel_h, rel_w, out)
        ctx.block = block
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        q, k, v, rel_h, rel_w, out = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            grads = _backward(q, k, v, rel_h, rel_w, out, grad, ctx.block)
        inputs = (q, k, v, rel_h, rel_w)
        return *(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True)), None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, size: int
) -> Tensor:
    similarity = _Similarity(q, k, rel_h, rel_w)
    batch, heads, _, height, width = q.shape
    values = v.to(similarity.q.dtype).flatten(3).flatten(0, 1).mT  # (Bh, N, V)
    out = values.new_empty(batch * heads, v.shape[2], height, width)
    for part in _blocks(batch * heads, height, width, size):
        logits = similarity.logits(
            part, similarity.queries(part), similarity.keys(part)
        )
        attn = torch.softmax(logits, dim=-1)  # over keys
        here = out[part.heads, :, part.row, part.columns]
        here.copy_((attn @ values[part.heads]).mT)
    return out.unflatten(0, (batch, heads)).to(v.dtype)


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    out: Tensor,
    grad: Tensor,
    size: int,
) -> tuple[Tensor, ...]:
    similarity = _Similarity(q, k, rel_h, rel_w)
    batch, heads, _, height, width = q.shape
    dtype = similarity.q.dtype
    values = v.to(dtype).flatten(3).flatten(0, 1)  # (Bh, V, N)
    grad = grad.to(dtype).flatten(0, 1)  # (Bh, V, H, W)
    # Of a softmax s = attn * (grad_attn - delta).
    delta = (grad * out.to(dtype).flatten(0, 1)).sum(dim=1)  # (Bh, H, W)
    grad_q = torch.zeros_like(similarity.q)
    grad_k = torch.zeros_like(similarity.k.flatten(2))
    grad_v = torch.zeros_like(values)
    grad_h = torch.zeros_like(similarity.rel_h)
    grad_w = torch.zeros_like(similarity.rel_w)
    for part in _blocks(batch * heads, height, width, size):
        queries, keys = similarity.queries(part), similarity.keys(part)
        attn = torch.softmax(similarity.logits(part, queries, keys), dim=-1)
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
    return (
        grad_q.view(q.shape),
        grad_k.view(k.shape),
        grad_v.view(v.shape),
        grad_h.unflatten(0, (batch, heads)).sum(0).mT,
        _sum_windows(grad_w.unflatten(0, (batch, heads)).sum(0)),
    )


# For a compiler, the loop is one operator: unrolled it would be a graph of hundreds of
# blocks.
@torch.library.custom_op('attn_plugins::relative_attention', mutates_args=())
def _compiled_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, size: int
) -> Tensor:
    return _forward(q, k, v, rel_h, rel_w, size)


@_compiled_attention.register_fake
def _(q, k, v, rel_h, rel_w, size):
    return v.new_empty(v.shape)


@torch.library.custom_op('attn_plugins::relative_attention_backward', mutates_args=())
def _compiled_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    out: Tensor,
    grad: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = _backward(q, k, v, rel_h, rel_w, out, grad, size)
    inputs = (q, k, v, rel_h, rel_w)
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs, strict=True))


@_compiled_backward.register_fake
def _(q, k, v, rel_h, rel_w, out, grad, size):
    return tuple(t.new_empty(t.shape) for t in (q, k, v, rel_h, rel_w))


def _keep_for_backward(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.size = inputs
    ctx.save_for_backward(*tensors, output)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_compiled_backward(*ctx.saved_tensors, grad, ctx.size), None


_compiled_attention.register_autograd(_differentiate, setup_context=_keep_for_backward)


def _sum_windows(windows: Tensor) -> Tensor:
    """Sums windows ``(h, W, D, W)`` up to the table they were cut from."""
    heads, width, channels, _ = windows.shape
    table = windows.new_zeros(heads, 2 * width - 1, channels)
    for column in range(width):
        start = width - 1 - column
        table[:, start : start + width] += windows[:, column].mT
    return table


@torch.no_grad()
def own_weight(
    q: Tensor,
    k: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    block: int | None = None,
) -> Tensor:
    """Weight that the softmax gives to each query's own pixel: eq. 2's unary term.

    Args: as in :func:`relative_attention`.

    Returns:
        ``(B, h, H, W)``, without gradient.
    """
    _check_shapes(q, k, k, rel_h, rel_w)
    batch, heads, _, height, width = q.shape
    if width > height:
        q, k = q.transpose(3, 4), k.transpose(3, 4)
        return own_weight(q, k, rel_w, rel_h, block=block).transpose(2, 3)
    size = _block_size(q) if block is None else block
    with torch.autocast(q.device.type, enabled=False):
        similarity = _Similarity(q, k, rel_h, rel_w)
        own = similarity.q.new_empty(batch * heads, height, width)
        for part in _blocks(batch * heads, height, width, size):
            logits = similarity.logits(
                part, similarity.queries(part), similarity.keys(part)
            )
            row = logits.unflatten(-1, (height, width))[:, :, part.row, part.columns]
            to_self = row.diagonal(dim1=1, dim2=2) - logits.logsumexp(dim=-1)
            own[part.heads, part.row, part.columns] = to_self.exp()
    return own.unflatten(0, (batch, heads)).to(q.dtype)


def content_moments(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``q_i . k_j`` over all pairs of every image, in closed form.

    With the means q', k' and the covariances C_q, C_k of an image, the mean is q'.k'
    and the variance is ``<C_q, C_k> + k' C_q k' + q' C_k q'``, none of which is
    negative, so that nothing cancels. Over the batch, means vary in addition.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.

    Returns:
        Mean and (biased) variance per head, ``(h,)`` each, in float32 or better.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    # Autocast would take the products below in half precision again.
    with torch.autocast(q.device.type, enabled=False):
        (mean_q, cov_q), (mean_k, cov_k) = (
            _mean_and_covariance(t.flatten(3).to(dtype)) for t in (q, k)
        )
        mean = (mean_q * mean_k).sum(-1)  # (B, h)
        var = (
            (cov_q * cov_k).sum((-2, -1))
            + _quadratic(mean_k, cov_q)
            + _quadratic(mean_q, cov_k)
        )
        return mean.mean(0), var.mean(0) + mean.var(0, unbiased=False)


def position_moments(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``q_i . (rel_h[...] + rel_w[...])`` over all pairs.

    A query sees one window of each table. Over its keys, the two offsets vary
    independently, so that with the windows' means m and covariances C the mean is
    ``q_i . (m_h + m_w)`` and the variance ``q_i (C_h + C_w) q_i``. Over the queries,
    the latter is averaged and the former varies in addition.

    Args:
        q: ``(B, h, D, H, W)``.
        rel_h: ``(2 * H - 1, D)``, for all heads.
        rel_w: ``(2 * W - 1, D)``, for all heads.

    Returns:
        Mean and (biased) variance per head, ``(h,)`` each, in float32 or better.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    batch, _, _, height, width = q.shape
    with torch.autocast(q.device.type, enabled=False):
        q = q.to(dtype)
        mean_h, cov_h = _window_moments(rel_h.to(dtype), height)
        mean_w, cov_w = _window_moments(rel_w.to(dtype), width)
        # Means of all queries: (B, h, H, W).
        mean = torch.einsum('bhdyx,yd->bhyx', q, mean_h) + torch.einsum(
            'bhdyx,xd->bhyx', q, mean_w
        )
        # The queries of a row of the map share their vertical window, so that the sum
        # of their squares is enough: (h, H, D, D), and so for the columns.
        rows = q.permute(1, 3, 2, 0, 4).flatten(3)  # (h, H, D, B * W)
        columns = q.permute(1, 4, 2, 0, 3).flatten(3)  # (h, W, D, B * H)
        var = ((rows @ rows.mT) * cov_h).sum((1, 2, 3))
        var = var + ((columns @ columns.mT) * cov_w).sum((1, 2, 3))
        var = var / (batch * height * width)
        means = mean.transpose(0, 1).flatten(1)
        return means.mean(1), var + means.var(1, unbiased=False)


def _mean_and_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Over the last dimension: ``(..., D, n)`` to ``(..., D)`` and ``(..., D, D)``."""
    mean = x.mean(-1)
    centred = x - mean.unsqueeze(-1)
    return mean, centred @ centred.mT / x.shape[-1]


def _window_moments(table: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of what each of ``size`` queries sees of a table: ``(L, D)``, ``(L, D, D)``."""
    # The last query has the first window. Each block is cut from the table by itself:
    # the gradient of all windows would be L x D x L.
    block = max(1, _WINDOWS_BLOCK // (size * table.shape[1]))
    moments = [
        checkpoint(
            _moments_of_windows,
            table[start : min(start + block, size) + size - 1],
            size,
            use_reentrant=False,
        )
        for start in range(0, size, block)
    ]
    mean, cov = (torch.cat(moment).flip(0) for moment in zip(*moments, strict=True))
    return mean, cov


def _moments_of_windows(table: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return _mean_and_covariance(table.unfold(0, size, 1))


def _quadratic(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum('...i,...ij,...j->...', x, matrix, x)


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor
) -> Tensor:
    """Hands positions to torch's fused attention as more channels of q and k."""
    height, width = q.shape[3:]
    vertical, horizontal = _position_logits(q, rel_h, rel_w)
    queries = torch.cat([q.permute(0, 1, 3, 4, 2), vertical, horizontal], dim=-1)
    rows = torch.eye(height, dtype=k.dtype, device=k.device)
    columns = torch.eye(width, dtype=k.dtype, device=k.device)
    one_hot = torch.cat(
        [
            rows.unsqueeze(1).expand(-1, width, -1),
            columns.unsqueeze(0).expand(height, -1, -1),
        ],
        dim=-1,
    )  # (H, W, H + W)
    keys = torch.cat(
        [k.permute(0, 1, 3, 4, 2), one_hot.expand(*k.shape[:2], -1, -1, -1)], dim=-1
    )
    queries, keys = queries.flatten(2, 3), keys.flatten(2, 3)
    values = v.flatten(3).mT
    # The fused kernels of a CPU want v as wide as q and k.
    padded = F.pad(values, (0, max(0, keys.shape[-1] - values.shape[-1])))
    out = F.scaled_dot_product_attention(queries, keys, padded, scale=1.0)
    return out[..., : values.shape[-1]].mT.unflatten(-1, (height, width))


def _position_logits(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """``q_i . rel_h[...]`` and ``q_i . rel_w[...]``, ``(B, h, H, W, H or W)``."""
    height, width = q.shape[3:]
    windows_h = position_windows(rel_h, height)  # (h, H_i, D, H_j)
    windows_w = position_windows(rel_w, width)
    return (
        torch.einsum('bhdyx,hydi->bhyxi', q, windows_h),
        torch.einsum('bhdyx,hxdi->bhyxi', q, windows_w),
    )


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor
) -> Tensor:
    """Has the N x N similarity: eq. 1 as it stands, in operators of any format."""
    vertical, horizontal = _position_logits(q, rel_h, rel_w)
    logits = torch.einsum('bhdyx,bhdij->bhyxij', q, k)
    logits = logits + vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)
    attn = logits.flatten(4).flatten(2, 3).softmax(-1)  # over keys: (B, h, N, N)
    return (attn @ v.flatten(3).mT).mT.unflatten(-1, q.shape[3:])


def flat_similarities(q: Tensor, k: Tensor, rel: Tensor, size: int) -> Tensor:
    """The three terms of the ImageNet form's similarity, before their norms.

    With the tables r^q and r^k, the first and the second D rows of ``rel``, they are
    ``q_i . k_j``, ``q_i . r^q[i - j]`` and ``k_j . r^k[j - i]``.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        rel: One table for q, k and v, ``(2 * D + V, 2 * R ** 2 - 1)``.
        size: R, the map size that the table is laid out for.

    Returns:
        ``(B, 3, h, N, N)``: queries, then keys.

    Raises:
        ValueError: If the map is larger than R x R.
    """
    width = q.shape[2]
    offsets = _flat_offsets(q.shape[3:], size, rel.device)
    q, k = q.flatten(3), k.flatten(3)
    of_query = torch.einsum('bhdi,dij->bhij', q, rel[:width, offsets])
    of_key = torch.einsum('bhdj,dji->bhij', k, rel[width : 2 * width, offsets])
    return torch.stack([q.mT @ k, of_query, of_key], dim=1)


def flat_values(attn: Tensor, v: Tensor, rel: Tensor, size: int) -> Tensor:
    """Sums of the values, and of the offsets' rows, in the ImageNet form.

    Args:
        attn: ``(B, h, N, N)``: queries, then keys.
        v: ``(B, h, V, H, W)``.
        rel: As in :func:`flat_similarities`.
        size: As there.

    Returns:
        ``(B, h, V, 2, H, W)``: ``sum_j attn_ij v_j`` and ``sum_j attn_ij r^v[i - j]``.
    """
    offsets = _flat_offsets(v.shape[3:], size, rel.device)
    values = v.flatten(3) @ attn.mT
    positions = torch.einsum('bhij,vij->bhvi', attn, rel[-v.shape[2] :, offsets])
    return torch.stack([values, positions], dim=3).unflatten(-1, v.shape[3:])


def _flat_offsets(hw: torch.Size, size: int, device: torch.device) -> Tensor:
    """Column of the table for every pair of pixels, ``(N, N)``."""
    height, width = hw
    if height > size or width > size:
        raise ValueError(
            f'the flat table of relative positions is laid out for maps up to '
            f'{size} x {size}, got {height} x {width}: use smaller images, a larger '
            "rel_pos_size (rel_pos_input_size of a backbone), or position='2d'"
        )
    rows = torch.arange(height, device=device) * size
    columns = torch.arange(width, device=device)
    place = (rows.unsqueeze(1) + columns).flatten()
    return place.unsqueeze(1) - place + size**2 - 1
