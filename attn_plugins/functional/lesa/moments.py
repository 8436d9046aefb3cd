"""Mean and variance of LESA's two similarity terms over all pairs, in closed form.

They are the batch statistics of the similarities' norm, without the similarities.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_MAX_WINDOW_ELEMENTS = 2**22  # numbers of a table's windows that are in memory at once


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
    block = max(1, _MAX_WINDOW_ELEMENTS // (size * table.shape[1]))
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
