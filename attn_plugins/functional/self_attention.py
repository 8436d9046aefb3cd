"""Self-attention of pixels: the baseline that external attention is compared with.

Source: Guo et al., arXiv 2105.02358, eq. 1 and 2; double normalisation as in eq. 9 to
11, with the N pixels in the place of the memory's slots (Table I, "FCN + SA").
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .external import Normalization, check_normalization


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
        ValueError: If ``normalization`` is unknown.
    """
    check_normalization(normalization, 0)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if normalization == 'softmax':
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    q = q * scale
    blocks = [
        checkpoint(_log_sum_exp, q, block, use_reentrant=False)
        for block in k.split(block_size, dim=-2)
    ]
    bias = -torch.cat(blocks, dim=-1).unsqueeze(-1)
    # Two more channels, q.k + 1 * bias + 1 * rest: what half precision rounds off the
    # bias is the rest. The fused kernels want v as wide as q and k.
    rounded = bias.to(k.dtype)
    rest = (bias - rounded).to(k.dtype)
    out = F.scaled_dot_product_attention(
        F.pad(q, (0, 2), value=1.0),
        torch.cat([k, rounded, rest], dim=-1),
        F.pad(v, (0, 2)),
        scale=1.0,
    )
    return out[..., :-2]


def _log_sum_exp(q: Tensor, k: Tensor) -> Tensor:
    """Log-sum-exp over queries of every key's logits, ``(B, h, keys)``."""
    logits = k @ q.mT
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype).logsumexp(dim=-1)
