"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, Sec. 4.1)."""

import torch.nn.functional as F
from torch import Tensor

from .backend import widened


def ms_deform_attn(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Sums bilinear samples of several maps, read at places of each query's own.

    Args:
        value: ``(B, N, heads, D)``: the pixels of all maps.
        shapes: Height and width of each map, ``(L, 2)``.
        starts: The first pixel of each map, ``(L,)``.
        locations: ``(B, queries, heads, L, P, 2)``: x and y, 0 and 1 at the edges of a
            map; zeros are read outside.
        weights: ``(B, queries, heads, L, P)``.

    Returns:
        ``(B, queries, heads * D)``, differentiable in values, locations and weights.
    """
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    wide = widened(value).permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, D, N)
    grids = (2 * widened(locations) - 1).transpose(1, 2).flatten(0, 1).type_as(wide)
    weights = widened(weights).transpose(1, 2).flatten(0, 1).type_as(wide)
    out = wide.new_zeros(batch * heads, channels, queries)
    levels = zip(shapes.tolist(), starts.tolist(), strict=True)
    for level, ((height, width), start) in enumerate(levels):
        pixels = wide[..., start : start + height * width]
        sampled = F.grid_sample(
            pixels.unflatten(-1, (height, width)),
            grids[:, :, level],
            align_corners=False,
        )
        out = out + (sampled * weights[:, None, :, level]).sum(-1)
    return out.view(batch, heads * channels, queries).mT.contiguous().to(value.dtype)
