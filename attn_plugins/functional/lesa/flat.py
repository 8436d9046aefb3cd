"""The form of LESA's context term for ImageNet: one table of offsets, on q, k and v.

Source: Yang et al., arXiv 2107.05637, section 4.1 and the released code. The offset
from pixel j to i of an R x R map is one number, ``dy * R + dx``. It has an N x N
similarity, of maps that are small.
"""

import torch
from torch import Tensor, nn

from ..batch_norm import normalize
from ..precision import autocast_off_if_fp16, fp16_to_fp32


def flat_attention(
    q: Tensor, k: Tensor, rel: Tensor, size: int, norm: nn.Module
) -> Tensor:
    """Weights of all pairs of pixels in the ImageNet form.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        rel: As in :func:`flat_similarities`.
        size: As there.
        norm: The norm of the similarities, of 3 h channels.

    Returns:
        ``(B, h, N, N)``: queries, then keys.

    Raises:
        ValueError: If the map is larger than R x R.
    """
    with autocast_off_if_fp16(q):
        terms = flat_similarities(*fp16_to_fp32(q, k, rel), size)
        terms = normalize(norm, terms.flatten(1, 2))
    logits = terms.unflatten(1, (3, -1)).sum(1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.softmax(-1, dtype=dtype).to(q.dtype)


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
