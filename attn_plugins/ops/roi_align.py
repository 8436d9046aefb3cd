"""RoIAlign (Mask R-CNN, arXiv 1703.06870, Sec. 3): boxes read off a map, bin by bin."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import known_to_torchvision, uses_torchvision, widened

# Pixels that are weighted at a time: 16 bytes each, and as many again while sorted.
TAPS = 1 << 20
# Along a side of a bin: more would be for boxes far larger than any map.
MAX_SAMPLES = 4096


def roi_align(
    x: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Averages bilinear samples in each bin of each box.

    The samples of a bin form a grid, so that their average is a weighted sum over a few
    rows times a few columns of pixels, each read once however many samples it takes
    part in: one ``embedding_bag`` over the pixels of the map.

    Args:
        x: ``(B, C, H, W)``.
        rois: ``(N, 5)``: number of the image, x1, y1, x2, y2.
        output_size: Bins of a box, ``(rows, columns)``.
        spatial_scale: Size of the map over that of the image.
        sampling_ratio: Samples along a side of a bin; 0: as many as it has pixels,
            rounded up.
        aligned: Whether pixel centres lie at halves, so that boxes move by half a
            pixel; without it boxes are at least one pixel wide and high.

    Returns:
        ``(N, C, rows, columns)``, differentiable in ``x``.
    """
    how = (tuple(output_size), spatial_scale, sampling_ratio, aligned)
    if uses_torchvision(x):
        known = known_to_torchvision(x)
        rest = (spatial_scale, *output_size, sampling_ratio, aligned)
        out = torch.ops.torchvision.roi_align(known, rois.type_as(known), *rest)
        return out.to(x.dtype)
    wide = widened(x)
    return _RoIAlign.apply(wide, rois.to(wide), how).to(x.dtype)


class _RoIAlign(torch.autograd.Function):
    """Finds the taps again in backward: they would take more memory than the result."""

    @staticmethod
    def forward(ctx, x: Tensor, rois: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.how = x.shape, how
        return _forward(x, rois, *how)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (rois,) = ctx.saved_tensors
        return roi_align_gradient(grad, rois, ctx.shape, *ctx.how), None, None


def _forward(x: Tensor, rois: Tensor, size: tuple[int, int], *how) -> Tensor:
    """Does what ``roi_align`` does, without gradients."""
    channels = x.shape[1]
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    out = x.new_empty(len(rois), size[0] * size[1], channels)
    for taps in _taps(rois, x.shape, size, *how):
        sums = F.embedding_bag(
            taps.pixels,
            pixels,
            taps.starts,
            mode='sum',
            per_sample_weights=taps.weights,
        )
        out[taps.rois] = sums.view(-1, *out.shape[1:])
    return out.transpose(1, 2).reshape(len(rois), channels, *size)


def roi_align_gradient(
    grad: Tensor, rois: Tensor, shape: torch.Size, size: tuple[int, int], *how
) -> Tensor:
    """Returns the gradient of a map of ``shape`` from that of its boxes."""
    batch, channels, height, width = shape
    if uses_torchvision(grad):
        scale, *rest = how
        known = known_to_torchvision(grad)
        return torch.ops.torchvision._roi_align_backward(
            known, rois.type_as(known), scale, *size, *shape, *rest
        ).to(grad.dtype)
    dtype, grad = grad.dtype, widened(grad)
    rois = rois.to(grad)
    grad_pixels = grad.new_zeros(batch * height * width, channels)
    grad = grad.flatten(2).transpose(1, 2)
    for taps in _taps(rois, shape, size, *how):
        # The same sums the other way round: for each pixel over the bins it is in.
        pixels, order = taps.pixels.sort()
        pixels, counts = pixels.unique_consecutive(return_counts=True)
        sums = F.embedding_bag(
            taps.bins()[order],
            grad[taps.rois].flatten(0, 1),
            counts.cumsum(0) - counts,
            mode='sum',
            per_sample_weights=taps.weights[order],
        )
        grad_pixels.index_add_(0, pixels, sums)
    grad_pixels = grad_pixels.view(batch, height, width, channels).to(dtype)
    return grad_pixels.permute(0, 3, 1, 2)


class Taps(NamedTuple):
    """The pixels of all bins of some boxes, bin after bin."""

    rois: Tensor  # (N,): which boxes
    pixels: Tensor  # (T,): numbers of pixels in the map, image by image, row by row
    weights: Tensor  # (T,)
    starts: Tensor  # (N * rows * columns,): where each bin begins

    def bins(self) -> Tensor:
        """Returns the number of the bin of each pixel."""
        steps = torch.zeros_like(self.pixels)
        steps[self.starts[1:]] = 1
        return steps.cumsum(0)


def _taps(
    rois: Tensor,
    shape: torch.Size,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[Taps]:
    """Yields the pixels of all boxes, in parts of bounded size."""
    height, width = shape[-2:]
    images = rois[:, 0].long() * (height * width)
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)).T
    rows = _Axis(y1, y2 - y1, size[0], height, sampling_ratio, aligned)
    columns = _Axis(x1, x2 - x1, size[1], width, sampling_ratio, aligned)
    # Boxes with as many samples are worked on together.
    kinds, kind = torch.stack([rows.samples, columns.samples], dim=1).unique(
        dim=0, return_inverse=True
    )
    parts, total = [], 0
    for number, (down, across) in enumerate(kinds.tolist()):
        members = (kind == number).nonzero()[:, 0]
        taps = size[0] * size[1] * rows.taps(down) * columns.taps(across)
        for group in members.split(max(1, TAPS // taps)):
            y, y_weights = rows(group, down)
            x, x_weights = columns(group, across)
            y = y * width + images[group, None, None]
            pixels = y[:, :, None, :, None] + x[:, None, :, None, :]
            weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
            bins = pixels.shape[:3].numel()
            parts.append((group, pixels.flatten(), weights.flatten(), bins))
            total += pixels.numel()
            if total >= TAPS:
                yield _joined(parts)
                parts, total = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[tuple[Tensor, Tensor, Tensor, int]]) -> Taps:
    groups, pixels, weights, bins = zip(*parts, strict=True)
    starts, begin = [], 0
    for part, count in zip(pixels, bins, strict=True):
        length = len(part) // count
        starts.append(torch.arange(count, device=part.device) * length + begin)
        begin += len(part)
    return Taps(
        torch.cat(groups), torch.cat(pixels), torch.cat(weights), torch.cat(starts)
    )


class _Axis:
    """The rows of pixels that the bins of boxes take in, or the columns."""

    def __init__(
        self,
        start: Tensor,
        length: Tensor,
        num_bins: int,
        num_pixels: int,
        sampling_ratio: int,
        aligned: bool,
    ) -> None:
        self.start, self.num_pixels, self.num_bins = start, num_pixels, num_bins
        self.bin = (length if aligned else length.clamp(min=1)) / num_bins
        self.dense = sampling_ratio <= 0
        self.samples = (
            self.bin.ceil().nan_to_num(0).clamp(0, MAX_SAMPLES).long()
            if self.dense
            else torch.full_like(start, sampling_ratio, dtype=torch.int64)
        )

    def taps(self, samples: int) -> int:
        """Returns the number of pixels that a bin of so many samples takes in."""
        if self.dense:  # one sample a pixel at least: neighbours share their pixels
            return max(1, min(samples + 1, self.num_pixels))
        return 2 * samples

    def __call__(self, boxes: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Returns pixels and weights of some boxes, both ``(N, bins, taps)``."""
        start, bin = self.start[boxes, None, None], self.bin[boxes, None, None]
        bins = torch.arange(self.num_bins, device=start.device)[:, None]
        steps = torch.arange(samples, device=start.device).to(bin)
        at = start + bins * bin + (steps + 0.5) / max(samples, 1) * bin
        outside = ~((at >= -1) & (at <= self.num_pixels))  # NaN too
        at = at.nan_to_num(0).clamp(0, self.num_pixels - 1)
        low = at.long()
        upper = (at - low).masked_fill(outside, 0) / max(samples, 1)
        lower = (1 - (at - low)).masked_fill(outside, 0) / max(samples, 1)
        last = self.num_pixels - 1
        if not self.dense:
            pixels = torch.cat([low, (low + 1).clamp(max=last)], dim=-1)
            return pixels, torch.cat([lower, upper], dim=-1)
        num_taps = self.taps(samples)
        first = low[..., :1] if samples else low.new_zeros(*low.shape[:2], 1)
        weights = at.new_zeros(*at.shape[:2], num_taps)
        # Rounding may carry the last one a pixel too far, with next to no weight.
        weights.scatter_add_(-1, (low - first).clamp(max=num_taps - 1), lower)
        weights.scatter_add_(-1, (low - first + 1).clamp(max=num_taps - 1), upper)
        taps = torch.arange(num_taps, device=first.device)
        return (first + taps).clamp(max=last), weights
