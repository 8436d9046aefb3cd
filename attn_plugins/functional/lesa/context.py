"""LESA's binary term (eq. 1): the similarities' norm folded into keys and tables."""

import torch
from torch import Tensor

from ..batch_norm import BatchNorm, scale_and_shift
from ..relpos import resize_table
from .blocks import Impl, relative_attention
from .moments import content_moments, position_moments
from .weights import own_weight


def context_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    norm: BatchNorm,
    *,
    impl: Impl = 'auto',
    without_unary: bool = False,
) -> Tensor:
    """Attention of every pixel to all, its two similarity terms batch-normed.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        v: ``(B, h, V, H, W)``.
        rel_h: Table of vertical offsets for all heads, ``(2 * R - 1, D)``, cut or
            stretched to the map.
        rel_w: That of horizontal offsets.
        norm: The norm of the similarities: content of all heads, then position; its
            running statistics move.
        impl: As in :func:`relative_attention`.
        without_unary: Whether to leave out what each pixel attends to in itself, the
            other weights unchanged (Table 1).

    Returns:
        ``(B, h, V, H, W)``.

    Raises:
        ValueError: If there is one pixel to take statistics of, or as in
            :func:`relative_attention`.
    """
    k, rel_h, rel_w = scale_similarities(q, k, rel_h, rel_w, norm)
    out = relative_attention(q, k, v, rel_h, rel_w, impl=impl)
    if without_unary:
        out = out - own_weight(q, k, rel_h, rel_w).unsqueeze(2) * v
    return out


def scale_similarities(
    q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor, norm: BatchNorm
) -> tuple[Tensor, Tensor, Tensor]:
    """Fits the tables to the map, and multiplies the norm's scales into them and k.

    Args: as in :func:`context_attention`.

    Returns:
        Keys ``(B, h, D, H, W)``, and tables ``(h, 2 * H - 1, D)`` and
        ``(h, 2 * W - 1, D)``, as :func:`relative_attention` takes them.
    """
    batch, heads, _, height, width = q.shape
    rel_h, rel_w = resize_table(rel_h, height), resize_table(rel_w, width)
    moments = None
    if norm.needs_moments:
        terms = content_moments(q, k), position_moments(q, rel_h, rel_w)
        moments = tuple(torch.cat(moment) for moment in zip(*terms, strict=True))
    pairs = batch * (height * width) ** 2
    scale, shift = scale_and_shift(norm, moments, pairs)
    # The softmax drops the shift. It stays in the graph, with zero gradient: a
    # parameter outside of it stops distributed training.
    scale = (scale + 0 * shift).to(k.dtype).view(2, heads, 1, 1)
    return k * scale[0].unsqueeze(-1), scale[1] * rel_h, scale[1] * rel_w
