"""Self-attention of pixels: the baseline that external attention is compared with.

Source: Guo et al., arXiv 2105.02358, eq. 1 and 2; double normalisation as in eq. 9 to
11, with the N pixels in the place of the memory's slots (Table I, "FCN + SA").
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .exporting import is_exporting
from .external import Normalization, check_normalization

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
    check_normalization(normalization, 0)
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            'q, k and v must be (B, h, N, D) all three, got '
            f'{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}'
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if normalization == 'softmax':
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
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


def _log_sum_exp(q: Tensor, k: Tensor) -> Tensor:
    """Log-sum-exp over queries of every key's logits, ``(B, h, keys)``.

    In float32 or better, under autocast too: products of large keys and queries leave
    the range of float16.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        return (k.to(dtype) @ q.to(dtype).mT).logsumexp(dim=-1)
