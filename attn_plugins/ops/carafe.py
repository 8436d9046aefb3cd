"""CARAFE (arXiv 1905.02188): upsampling by weights that each pixel has of its own."""

import torch.nn.functional as F
from torch import Tensor

from .backend import widened


def carafe(
    x: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    """Sums the neighbourhood of the source pixel, by the weights of the result's pixel.

    Args:
        x: ``(B, C, H, W)``.
        masks: ``(B, group_size * K, scale_factor * H, scale_factor * W)``: for each
            group of channels the weights of the K pixels of a square.
        kernel_size: Side of the square, odd.
        group_size: Groups of channels.
        scale_factor: Size of the result over that of ``x``.

    Returns:
        ``(B, C, scale_factor * H, scale_factor * W)``, differentiable in both.
    """
    batch, channels, height, width = x.shape
    upper = (group_size, height, scale_factor, width, scale_factor)
    weights = widened(masks).view(batch, group_size, kernel_size**2, *upper[1:])
    radius = kernel_size // 2
    padded = F.pad(widened(x), (radius,) * 4)
    padded = padded.view(batch, group_size, -1, *padded.shape[2:])
    out = padded.new_zeros(batch, group_size, channels // group_size, *upper[1:])
    # One pixel of the square at a time: all together take K times the map.
    for tap in range(kernel_size**2):
        row, column = divmod(tap, kernel_size)
        moved = padded[..., row : row + height, column : column + width]
        out = out.addcmul(moved[..., None, :, None], weights[:, :, tap, None])
    return out.reshape(batch, channels, height * scale_factor, width * scale_factor).to(
        x.dtype
    )
