"""Self-attention of pixels: the baseline that external attention is compared with.

Source: Guo et al., arXiv 2105.02358, eq. 1 and 2; double normalisation as in eq. 9 to
11, with the N pixels in the place of the memory's slots (Table I, "FCN + SA").
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .checks import check_normalization
from .exporting import is_exporting
from .external import Normalization

_BIAS_UNIT = 2.0**11


def self_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    normalization: Normalization = 'softmax',
    scale: float | None = None,
    block_size: int = 1024,
) -> Tensor:
    """Attention of every pixel to every pixel, never an N x N matrix in memory.

    With 'softmax' it is torch's fused attention. Double normalisation needs, for every
    key, the log-sum-exp of its logits over all queries first; that is taken block by
    block, and its negative is then a bias of the key, which the fused attention gets as
    one more channel of q and k.

    Args:
        q: ``(B, h, N, D)``.
        k: ``(B, h, N, D)``.
        v: ``(B, h, N, D)``.
        normalization: 'softmax' over keys (eq. 1), or 'double': softmax over queries,
            then L1 norm over keys.
        scale: Multiplies the logits; None is ``D ** -0.5``.
        block_size: Keys per block of the log-sum-exp.

    Returns:
        ``(B, h, N, D)``.

    Raises:
        ValueError: If ``normalization`` is unknown or shapes do not fit.
    """
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            'q, k and v must be (B, h, N, D) all three, got '
            f'{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}'
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if normalization == 'softmax':
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    check_normalization(normalization)
    q = q * scale
    if is_exporting():
        bias = -_log_sum_exp(q, k).unsqueeze(-1)
    else:
        blocks = [
            checkpoint(_log_sum_exp, q, block, use_reentrant=False)
            for block in k.split(block_size, dim=-2)
        ]
        bias = -torch.cat(blocks, dim=-1).unsqueeze(-1)
    # Two more channels, q.k + unit * high + 1 * rest: what half precision rounds off
    # the bias is the rest. The unit, a power of two, keeps it in float16's range. The
    # fused kernels want v as wide as q and k.
    high = (bias / _BIAS_UNIT).to(k.dtype)
    rest = (bias - _BIAS_UNIT * high.to(bias.dtype)).to(k.dtype)
    out = F.scaled_dot_product_attention(
        F.pad(F.pad(q, (0, 1), value=_BIAS_UNIT), (0, 1), value=1.0),
        torch.cat([k, high, rest], dim=-1),
        F.pad(v, (0, 2)),
        scale=1.0,
    )
    return out[..., :-2]


@torch.no_grad()
def query_weights(
    q: Tensor,
    k: Tensor,
    queries: Sequence[int],
    *,
    normalization: Normalization = 'softmax',
) -> Tensor:
    """Weights of all pixels in :func:`self_attention`, for some queries.

    Args:
        q: ``(B, h, N, D)``.
        k: ``(B, h, N, D)``.
        queries: Pixels in [0, N).
        normalization: As in :func:`self_attention`.

    Returns:
        ``(B, Q, h, N)``, without gradient, in float32 or better.
    """
    q, k, bias = _scaled(q, k, normalization)
    logits = q[:, :, list(queries)] @ k.mT + bias.unsqueeze(2)
    return logits.softmax(-1).transpose(1, 2)


@torch.no_grad()
def own_weight(
    q: Tensor, k: Tensor, *, normalization: Normalization = 'softmax'
) -> Tensor:
    """Weight of each pixel for itself in :func:`self_attention`.

    Args: as in :func:`query_weights`.

    Returns:
        ``(B, h, N)``, without gradient, in float32 or better.
    """
    q, k, bias = _scaled(q, k, normalization)
    own = (q * k).sum(-1) + bias
    totals = [
        (block @ k.mT + bias.unsqueeze(2)).logsumexp(-1) for block in q.split(1024, 2)
    ]
    return (own - torch.cat(totals, dim=-1)).exp()


def _scaled(
    q: Tensor, k: Tensor, normalization: Normalization
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries times the scale, keys, and the keys' bias ``(B, h, N)``."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(dtype) * q.shape[-1] ** -0.5, k.to(dtype)
    if normalization == 'softmax':
        return q, k, k.new_zeros(k.shape[:-1])
    blocks = [_log_sum_exp(q, block) for block in k.split(1024, dim=2)]
    return q, k, -torch.cat(blocks, dim=-1)


def _log_sum_exp(q: Tensor, k: Tensor) -> Tensor:
    """Log-sum-exp over queries of every key's logits, ``(B, h, keys)``.

    In float32 or better, under autocast too: products of large keys and queries leave
    the range of float16.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        return (k.to(dtype) @ q.to(dtype).mT).logsumexp(dim=-1)
