"""RoIPool (Fast R-CNN, arXiv 1504.08083, Sec. 2.1): the largest value in each bin."""

import torch
from torch import Tensor

from .backend import widened


def roi_pool(
    x: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Takes the largest value of each bin of each box.

    x2 and y2 belong to a box. A bin takes in all pixels that it touches.

    Args:
        x: ``(B, C, H, W)``.
        rois: ``(N, 5)``: number of the image, x1, y1, x2, y2.
        output_size: Bins of a box, ``(rows, columns)``.
        spatial_scale: Size of the map over that of the image.

    Returns:
        The values, ``(N, C, rows, columns)``, differentiable in ``x``, 0 for empty
        bins; and of each its pixel, the first of equal ones, y * W + x, int64, -1 for
        empty bins.
    """
    argmax = _argmax(x.detach(), rois, output_size, spatial_scale)
    empty = argmax < 0
    values = x.take(_flat(argmax, rois, x.shape)).masked_fill(empty, 0)
    return values, argmax


def roi_pool_gradient(
    grad: Tensor, rois: Tensor, argmax: Tensor, shape: torch.Size
) -> Tensor:
    """Returns the gradient of a map of ``shape`` from that of its boxes."""
    grad_x = widened(grad.new_zeros(0)).new_zeros(shape.numel())
    used = argmax >= 0
    flat = _flat(argmax, rois, shape)[used]
    return grad_x.index_add_(0, flat, widened(grad[used])).view(shape).to(grad.dtype)


def _flat(argmax: Tensor, rois: Tensor, shape: torch.Size) -> Tensor:
    """Returns the numbers of the pixels in the whole tensor; of empty bins any."""
    _, channels, height, width = shape
    maps = rois[:, :1].long() * channels
    maps = maps + torch.arange(channels, device=rois.device)
    return maps[:, :, None, None] * (height * width) + argmax.clamp(min=0)


def _argmax(
    x: Tensor, rois: Tensor, size: tuple[int, int], spatial_scale: float
) -> Tensor:
    """Finds the largest value of bins: the largest of four windows that cover it.

    The windows' sides are powers of two, so that few kinds of windows serve all bins,
    and each kind is made from the one before.
    """
    _, channels, height, width = x.shape
    x = widened(x)
    boxes = rois.to(x)
    images = rois[:, 0].long()
    start, stop = boxes[:, 1:3] * spatial_scale, (boxes[:, 3:] + 1) * spatial_scale
    y1, y2 = _bins(start[:, 1], stop[:, 1], size[0], height)
    x1, x2 = _bins(start[:, 0], stop[:, 0], size[1], width)
    rows, columns = _level(y2 - y1), _level(x2 - x1)  # -1: nothing in it
    argmax = torch.full(
        (len(rois), *size, channels), -1, dtype=torch.int64, device=x.device
    )
    values = x.permute(0, 2, 3, 1).contiguous()
    pixels = torch.arange(height * width, device=x.device)
    pixels = pixels.view(1, height, width, 1).expand_as(values)
    for row_level in range(int(rows.max()) + 1 if rows.numel() else 0):
        if row_level:
            values, pixels = _doubled(values, pixels, 1, 1 << (row_level - 1))
        wide, wide_pixels = values, pixels
        in_rows = rows == row_level
        reach = columns[in_rows.any(dim=1)].max() if in_rows.any() else -1
        for level in range(int(reach) + 1):
            if level:
                wide, wide_pixels = _doubled(wide, wide_pixels, 2, 1 << (level - 1))
            bins = in_rows[:, :, None] & (columns == level)[:, None, :]
            roi, row, column = bins.nonzero(as_tuple=True)
            image = images[roi]
            best = None
            for y in (y1[roi, row], y2[roi, row] - (1 << row_level)):
                for x_ in (x1[roi, column], x2[roi, column] - (1 << level)):
                    window = wide[image, y, x_], wide_pixels[image, y, x_]
                    best = _larger(*best, *window) if best else window
            argmax[roi, row, column] = best[1]
    return argmax.permute(0, 3, 1, 2).contiguous()


def _bins(
    start: Tensor, stop: Tensor, num_bins: int, num_pixels: int
) -> tuple[Tensor, Tensor]:
    """Returns the first pixel of each bin and the one after the last, ``(N, bins)``."""
    side = ((stop - start) / num_bins)[:, None]
    bins = torch.arange(num_bins, device=start.device)
    first = (bins * side + start[:, None]).floor()
    after = ((bins + 1) * side + start[:, None]).ceil()
    return tuple(at.nan_to_num(0).clamp(0, num_pixels).long() for at in (first, after))


def _level(length: Tensor) -> Tensor:
    """Returns the largest k with 2^k <= length; below 0 where there is none."""
    return torch.frexp(length.clamp(min=0).double()).exponent - 1


def _doubled(
    values: Tensor, pixels: Tensor, dim: int, step: int
) -> tuple[Tensor, Tensor]:
    """Returns the maxima of windows twice as long along ``dim``."""
    count = values.shape[dim] - step
    near, far = (slice(count), slice(step, step + count))
    before = (slice(None),) * dim
    near, far = (*before, near), (*before, far)
    return _larger(values[near], pixels[near], values[far], pixels[far])


def _larger(
    a: Tensor, a_pixels: Tensor, b: Tensor, b_pixels: Tensor
) -> tuple[Tensor, Tensor]:
    second = (b > a) | ((b == a) & (b_pixels < a_pixels))
    return torch.where(second, b, a), torch.where(second, b_pixels, a_pixels)
