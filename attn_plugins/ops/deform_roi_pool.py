"""Deformable RoI pooling (arXiv 1703.06211, Sec. 2.2), on samples as in RoIAlign."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import widened
from .roi_align import MAX_SAMPLES

# Values that are read at a time.
SAMPLES = 1 << 24


def deform_roi_pool(
    x: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Averages bilinear samples in each bin of each box, every bin moved by an offset.

    Args:
        x: ``(B, C, H, W)``.
        rois: ``(N, 5)``: number of the image, x1, y1, x2, y2.
        offset: ``(N, 2, rows, columns)``: of each bin its way right, then down, in
            parts of the box.
        output_size: Bins of a box, ``(rows, columns)``.
        spatial_scale: Size of the map over that of the image.
        sampling_ratio: Samples along a side of a bin; 0: as many as it has pixels,
            rounded up.
        gamma: Factor of the offsets.

    Returns:
        ``(N, C, rows, columns)``, differentiable in ``x`` and ``offset``.
    """
    wide = widened(x)
    boxes = rois.to(wide)
    start = boxes[:, 1:3] * spatial_scale - 0.5
    sides = (boxes[:, 3:] - boxes[:, 1:3]) * spatial_scale
    # Right and down everywhere here; bins are (rows, columns).
    bin = sides / sides.new_tensor(output_size[::-1])
    if sampling_ratio > 0:
        samples = torch.full_like(bin, sampling_ratio, dtype=torch.int64)
    else:
        samples = bin.ceil().nan_to_num(0).clamp(0, MAX_SAMPLES).long()
    moved = start[:, :, None, None].expand(-1, -1, *output_size)
    if offset is not None:
        moved = moved + gamma * sides[:, :, None, None] * offset.to(wide)
    kinds, kind = torch.cat([rois[:, :1].long(), samples], dim=1).unique(
        dim=0, return_inverse=True
    )
    order, parts = [], []
    for number, (image, across, down) in enumerate(kinds.tolist()):
        members = (kind == number).nonzero()[:, 0]
        count = x.shape[1] * across * down * output_size[0] * output_size[1]
        for group in members.split(max(1, SAMPLES // max(1, count))):
            order.append(group)
            parts.append(_pooled(wide[image], moved[group], bin[group], (across, down)))
    if not parts:
        return x.new_zeros(0, x.shape[1], *output_size)
    return torch.cat(parts)[torch.cat(order).argsort()].to(x.dtype)


def _pooled(x: Tensor, start: Tensor, bin: Tensor, samples: tuple[int, int]) -> Tensor:
    """Averages the samples of boxes that have as many of them, on one map.

    Args:
        x: ``(C, H, W)``.
        start: ``(N, 2, rows, columns)``: where the box would begin, for each bin.
        bin: ``(N, 2)``: width and height of its bins.
        samples: Along a bin's row, and column.

    Returns:
        ``(N, C, rows, columns)``.
    """
    count, _, rows, columns = start.shape
    if not all(samples):
        return x.new_zeros(count, len(x), rows, columns) + 0 * start[:, :1]
    at, inside = [], []
    for axis, (num_bins, num_pixels) in enumerate(
        [(columns, x.shape[2]), (rows, x.shape[1])]
    ):
        steps = torch.arange(samples[axis], device=x.device) + 0.5
        within = steps.to(x) / samples[axis]
        bins = torch.arange(num_bins, device=x.device).to(x)
        if axis == 1:
            bins = bins[:, None]
        # (N, rows, columns, samples)
        places = bins[..., None] + within
        places = start[:, axis, ..., None] + places * bin[:, axis, None, None, None]
        inside.append((places >= -1) & (places <= num_pixels))
        # grid_sample counts from edge to edge in -1 ... 1.
        at.append((2 * places + 1) / num_pixels - 1)
    shape = (count, rows, columns, samples[1], samples[0])
    across = at[0][..., None, :].expand(shape)
    down = at[1][..., :, None].expand(shape)
    grid = torch.stack([across, down], dim=-1).view(1, count * rows * columns, -1, 2)
    # Up to a pixel outside the outermost pixel counts, farther away nothing does.
    sampled = F.grid_sample(x[None], grid, padding_mode='border', align_corners=False)
    taken = inside[0][..., None, :] & inside[1][..., :, None]
    sums = (sampled.view(len(x), *shape) * taken).sum((-2, -1))
    return sums.transpose(0, 1) / (samples[0] * samples[1])
