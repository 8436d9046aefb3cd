"""Global self-attention: content over all pixels, position along columns, then rows.

Source: "Global Self-Attention Networks for Image Recognition", arXiv 2010.03019,
section 3.1 and appendix B.

Two layouts, both chosen so that a CPU multiplies matrices without copying one first:

* Into a function, tokens first: ``(L, M, D)``. L positions attend to each other, M is
  everything that stays apart: images, heads and, for a column, the columns. It is what
  a projection of channels-last pixels gives, seen as ``(H, W * B * h, D)`` or as
  ``(H * W, B * h, D)``.
* Out of it, channels first: ``(M, D, L)``, which for pixels is ``(B, C, H, W)``.

Nothing here is N x N. Content attention multiplies keys and values first, so it holds D
numbers per channel. Positional attention holds the L numbers of its line per pixel and
head, a block of lines at a time.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .exporting import is_exporting
from .relpos import position_windows, resize_table


def content_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that sees what the pixels hold and not where (``Y^C`` of appendix B).

    Keys are normalised over the pixels, queries are not. The softmax and the context
    vectors, means over all pixels, are taken in float32 or better, under autocast too:
    in half precision a weight of one in thousands rounds away.

    Args:
        q: ``(N, M, D)``.
        k: ``(N, M, D)``.
        v: ``(N, M, V)``.

    Returns:
        ``(M, V, N)``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_tokens(q, k=k, v=v)
    dtype = torch.promote_types(k.dtype, torch.float32)
    with torch.autocast(k.device.type, enabled=False):
        weights = k.to(dtype).softmax(dim=0)  # over pixels
        context = torch.bmm(v.to(dtype).permute(1, 2, 0), weights.transpose(0, 1))
    return torch.bmm(context.to(q.dtype), q.permute(1, 2, 0))


def axial_position_attention(
    q: Tensor,
    v: Tensor,
    table: Tensor,
    *,
    max_shift: int | None = None,
    block_size: int = 2**24,
) -> Tensor:
    """Attention along one axis by relative position (``Y^H`` of appendix B).

    The value at i counts ``q_x . R[i - x]`` times at x. There is no softmax, so the
    result is linear in v, and zero for a table of zeros.

    Args:
        q: ``(L, M, D)``.
        v: ``(L, M, V)``.
        table: R, ``(2 * R - 1, D)``, sliced or stretched to L positions (as in
            :func:`resize_table` with ``keep_sum``). With ``max_shift``
            ``(2 * max_shift + 1, D)``, one row per offset at any L.
        max_shift: Largest ``|i - x|`` that is attended to; None for all.
        block_size: Numbers ``q_x . R[i - x]`` held at a time. Beyond it lines are taken
            in blocks, and recomputed in backward.

    Returns:
        ``(M, V, L)``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_tokens(q, v=v)
    keys = _position_keys_of(q, table, max_shift, keep_sum=True)
    return _by_lines(_attend_by_position, (q, v), keys, block_size)


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    *,
    max_shift: int | None = None,
    block_size: int = 2**24,
) -> Tensor:
    """Attention along one axis by content and position, the alternative of Table 2.

    Weights are ``softmax_i(q_x . (k_i + R[i - x]))``, those of Ramachandran et al.
    (arXiv 1906.05909) with a line in the place of their neighbourhood.

    Args:
        q: ``(L, M, D)``.
        k: ``(L, M, D)``.
        v: ``(L, M, V)``.
        table: As in :func:`axial_position_attention`.
        max_shift: As in :func:`axial_position_attention`.
        block_size: As in :func:`axial_position_attention`.

    Returns:
        ``(M, V, L)``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_tokens(q, k=k, v=v)
    keys = _position_keys_of(q, table, max_shift)
    far = None
    if max_shift is not None:
        position = torch.arange(q.shape[0], device=q.device)
        far = (position - position[:, None]).abs() > max_shift  # (L, L)

    def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
        logits = torch.baddbmm(
            torch.bmm(q, keys).transpose(0, 1), q.transpose(0, 1), k.permute(1, 2, 0)
        )  # (M, L, L)
        if far is not None:
            logits = logits.masked_fill(far, -torch.inf)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        attn = logits.softmax(dim=-1, dtype=dtype).to(v.dtype)  # over the keys
        return torch.bmm(v.permute(1, 2, 0), attn.mT)

    return _by_lines(attend, (q, k, v), keys, block_size)


def position_keys(
    table: Tensor, size: int, *, max_shift: int | None = None, keep_sum: bool = False
) -> Tensor:
    """Re-indexes a table from relative to absolute positions (P of appendix B).

    Args:
        table: As in :func:`axial_position_attention`.
        size: Positions L along the axis.
        max_shift: As in :func:`axial_position_attention`; beyond it keys are zero.
        keep_sum: As in :func:`~attn_plugins.functional.relpos.resize_table`.

    Returns:
        ``(L, D, L)``: the key that the query at x has for the position i is
        ``[x, :, i]``.

    Raises:
        ValueError: If ``max_shift`` is negative, or the rows of the table are not as
            many as they should be.
    """
    if max_shift is None:
        # The values are summed, not averaged: on a map of twice the size the picture
        # itself would count twice.
        table = resize_table(table, size, keep_sum=keep_sum)
    else:
        if max_shift < 0:
            raise ValueError(f'max_shift must be >= 0 or None, got {max_shift}')
        if table.ndim != 2 or len(table) != 2 * max_shift + 1:
            raise ValueError(
                f'table must be (2 * max_shift + 1, D) with max_shift={max_shift}, '
                f'got {tuple(table.shape)}'
            )
        table = _zero_beyond(table, size, max_shift)
    return position_windows(table, size)


@torch.no_grad()
def content_weights(q: Tensor, k: Tensor, queries: Sequence[tuple[int, int]]) -> Tensor:
    """Weights of all pixels in :func:`content_attention`, for some queries.

    The output of a query is ``sum_j (sum_d q_d softmax(k)_jd) v_j``: keys are
    normalised over the pixels, queries are not, so that weights may be negative.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        queries: Row and column of each.

    Returns:
        ``(B, Q, h, H, W)``.
    """
    weights = k.flatten(3).softmax(-1).view_as(k)  # over pixels
    return torch.stack(
        [torch.einsum('bhd,bhdij->bhij', q[..., y, x], weights) for y, x in queries], 1
    )


@torch.no_grad()
def column_weights(
    q: Tensor,
    k: Tensor | None,
    table: Tensor,
    queries: Sequence[tuple[int, int]],
    *,
    max_shift: int | None = None,
) -> Tensor:
    """Weights along all columns for the queries in some rows.

    Those of :func:`axial_attention`, or of :func:`axial_position_attention` if there
    are no keys; these are signed.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``, or None.
        table: As in these functions.
        queries: Row and column of each; its column does not matter.
        max_shift: As in these functions.

    Returns:
        ``(B, Q, h, H, W)``: at (y, x) the weight of (y, x) for the query's row at x.
    """
    height = q.shape[3]
    keys = position_keys(table, height, max_shift=max_shift, keep_sum=k is None)
    found = []
    for row, _ in queries:
        here = q[..., row, :]  # (B, h, D, W)
        weights = torch.einsum('bhdx,dy->bhyx', here, keys[row].to(q.dtype))
        if k is not None:
            weights = weights + torch.einsum('bhdx,bhdyx->bhyx', here, k)
            if max_shift is not None:
                far = (torch.arange(height, device=q.device) - row).abs() > max_shift
                weights = weights.masked_fill(far.unsqueeze(1), -torch.inf)
            weights = weights.softmax(2)
        found.append(weights)
    return torch.stack(found, dim=1)


def row_weights(
    q: Tensor,
    k: Tensor | None,
    table: Tensor,
    queries: Sequence[tuple[int, int]],
    *,
    max_shift: int | None = None,
) -> Tensor:
    """Weights along their rows for some queries: :func:`column_weights`, transposed.

    Returns:
        ``(B, Q, h, W)``.
    """
    k = None if k is None else k.mT
    swapped = [(column, row) for row, column in queries]
    lines = column_weights(q.mT, k, table, swapped, max_shift=max_shift)
    return torch.stack(
        [lines[:, index, ..., row] for index, (row, _) in enumerate(queries)], dim=1
    )


def _zero_beyond(table: Tensor, size: int, max_shift: int) -> Tensor:
    """Pads or cuts a table to the ``2 * size - 1`` offsets that a map has."""
    if is_exporting():
        rows = torch.arange(2 * size - 1, device=table.device) - (size - 1) + max_shift
        inside = rows.clamp(0, 2 * max_shift)
        return table[inside] * (rows == inside).unsqueeze(1)
    # A negative padding cuts off the offsets that the map is too small for.
    missing = size - 1 - max_shift
    return F.pad(table, (0, 0, missing, missing))


def _position_keys_of(
    q: Tensor, table: Tensor, max_shift: int | None, *, keep_sum: bool = False
) -> Tensor:
    keys = position_keys(table, q.shape[0], max_shift=max_shift, keep_sum=keep_sum)
    if table.shape[1] != q.shape[2]:
        raise ValueError(
            f'table must have the {q.shape[2]} channels of q {tuple(q.shape)}, '
            f'got {tuple(table.shape)}'
        )
    return keys


def _attend_by_position(q: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    attn = torch.bmm(q, keys)  # (L, M, L)
    return torch.bmm(v.permute(1, 2, 0), attn.permute(1, 2, 0))


def _by_lines(
    attend: Callable[..., Tensor],
    tokens: tuple[Tensor, ...],
    keys: Tensor,
    block_size: int,
) -> Tensor:
    """Calls ``attend(*tokens, keys)`` on as many of the M lines as ``block_size``."""
    if is_exporting():
        return attend(*tokens, keys)
    lines = max(1, block_size // len(keys) ** 2)
    if lines >= tokens[0].shape[1]:
        return attend(*tokens, keys)
    blocks = zip(*(x.split(lines, dim=1) for x in tokens), strict=True)
    return torch.cat(
        [
            checkpoint(
                attend, *block, keys, use_reentrant=False, preserve_rng_state=False
            )
            for block in blocks
        ]
    )


def _check_tokens(q: Tensor, **others: Tensor) -> None:
    if q.ndim != 3:
        raise ValueError(f'q must be (L, M, D), got {tuple(q.shape)}')
    for name, x in others.items():
        width = q.shape[2] if name == 'k' else 'V'
        expected = f'({q.shape[0]}, {q.shape[1]}, {width})'
        if x.ndim != 3 or x.shape[:2] != q.shape[:2] or width not in ('V', x.shape[2]):
            raise ValueError(
                f'{name} must be {expected} to fit q {tuple(q.shape)}, '
                f'got {tuple(x.shape)}'
            )
