"""Relative attention by torch's fused attention, and as eq. 1 stands."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..relpos import position_windows


def fused_attention(
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


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor
) -> Tensor:
    """Has the N x N similarity: eq. 1 as it stands, in operators of any format."""
    vertical, horizontal = _position_logits(q, rel_h, rel_w)
    logits = torch.einsum('bhdyx,bhdij->bhyxij', q, k)
    logits = logits + vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)
    attn = logits.flatten(4).flatten(2, 3).softmax(-1)  # over keys: (B, h, N, N)
    return (attn @ v.flatten(3).mT).mT.unflatten(-1, q.shape[3:])
