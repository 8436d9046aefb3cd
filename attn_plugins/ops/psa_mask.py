"""Point-wise spatial attention (PSANet, ECCV 2018, Sec. 3.3): masks laid on the map."""

import torch
from torch import Tensor


def psa_mask(x: Tensor, collect: bool, mask_size: tuple[int, int]) -> Tensor:
    """Lays the mask of each pixel on the map, its centre on the pixel.

    Args:
        x: ``(B, K, H, W)``: for each pixel a mask of K weights, row by row.
        collect: Whether channels are the map that a pixel looks at; else channels are
            the pixels that look, and rows and columns the map.
        mask_size: Height and width of the masks.

    Returns:
        ``(B, H * W, H, W)``, zero outside the masks, differentiable in ``x``.
    """
    size = x.shape[-2:]
    out = _moved(x.unflatten(1, mask_size), size, mask_size, 1).flatten(1, 2)
    return out if collect else out.flatten(2).mT.unflatten(2, size)


def psa_mask_gradient(
    grad: Tensor, collect: bool, mask_size: tuple[int, int]
) -> Tensor:
    """Returns the gradient of the masks: every weight is on one pixel, or outside."""
    size = grad.shape[-2:]
    if not collect:
        grad = grad.flatten(2).mT.unflatten(2, size)
    return _moved(grad.unflatten(1, size), mask_size, mask_size, -1).flatten(1, 2)


def _moved(
    x: Tensor, target: tuple[int, int], mask_size: tuple[int, int], way: int
) -> Tensor:
    """Shifts the first two axes of each pixel by its place, less half a mask.

    Args:
        x: ``(B, h, w, H, W)``.
        target: Sizes of these axes in the result.
        mask_size: Height and width of the masks.
        way: 1 from the mask to the map, -1 from the map to the mask.

    Returns:
        ``(B, *target, H, W)``: zero where nothing comes from.
    """
    places, inside = [], []
    for axis in range(2):
        at = torch.arange(target[axis], device=x.device)[:, None]
        pixel = torch.arange(x.shape[3 + axis], device=x.device)
        source = at - way * (pixel - (mask_size[axis] - 1) // 2)
        last = x.shape[1 + axis] - 1
        inside.append((source >= 0) & (source <= last))
        places.append(source.clamp(0, last))
    (y, x_), (in_rows, in_columns) = places, inside
    rows = torch.arange(x.shape[3], device=x.device)[:, None]
    columns = torch.arange(x.shape[4], device=x.device)
    out = x[:, y[:, None, :, None], x_[None, :, None, :], rows, columns]
    outside = ~(in_rows[:, None, :, None] & in_columns[None, :, None, :])
    return out.masked_fill(outside, 0)
