"""Deformable convolution (arXiv 1703.06211), also modulated (DCNv2, 1811.11168)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import known_to_torchvision, uses_torchvision, widened

Pair = tuple[int, int]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Convolves with every pixel of the kernel moved by an offset of its own.

    Args:
        x: ``(B, C_in, H, W)``.
        offset: ``(B, 2 * deform_groups * K, H_out, W_out)``: for each group of input
            channels and each of the K pixels of the kernel its way down, then right.
        weight: ``(C_out, C_in / groups, kernel height, kernel width)``.
        bias: ``(C_out,)``.
        mask: ``(B, deform_groups * K, H_out, W_out)``: factors of the pixels (DCNv2).
        stride: As in a convolution, down and right, like the following two.
        padding: Zeros on each side.
        dilation: Distance of the kernel's pixels.
        groups: Groups of channels that are convolved by themselves.
        deform_groups: Groups of input channels with offsets of their own.

    Returns:
        ``(B, C_out, H_out, W_out)``, differentiable in all tensors.
    """
    if uses_torchvision(x):
        known = known_to_torchvision(x)
        return torch.ops.torchvision.deform_conv2d(
            known,
            weight.type_as(known),
            offset.type_as(known),
            known.new_zeros(len(x), 1) if mask is None else mask.type_as(known),
            known.new_zeros(len(weight)) if bias is None else bias.type_as(known),
            *stride,
            *padding,
            *dilation,
            groups,
            deform_groups,
            mask is not None,
        ).to(x.dtype)
    # The types are those of the tensors, as mmcv has it: autocast would narrow them.
    with torch.autocast(x.device.type, enabled=False):
        columns = sample_columns(
            widened(x),
            widened(offset),
            None if mask is None else widened(mask),
            weight.shape[-2:],
            stride,
            padding,
            dilation,
            deform_groups,
        )
        out = convolve_columns(columns, widened(weight), groups)
    if bias is not None:
        out = out + widened(bias)[:, None]
    return out.view(*out.shape[:2], *offset.shape[-2:]).to(x.dtype)


def sample_columns(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    deform_groups: int,
) -> Tensor:
    """Reads the input under every pixel of the moved kernels, bilinear, zero outside.

    Returns:
        ``(B, C_in, K, H_out * W_out)``.
    """
    batch, channels, height, width = x.shape
    rows, columns = offset.shape[-2:]
    taps = math.prod(kernel_size)
    offset = offset.reshape(batch * deform_groups, taps, 2, rows, columns)

    def places(axis: int, count: int) -> Tensor:
        kernel = torch.arange(kernel_size[axis], device=x.device) * dilation[axis]
        start = torch.arange(count, device=x.device) * stride[axis] - padding[axis]
        return (kernel[:, None] + start).to(x)

    y = places(0, rows)[:, None, :, None].expand(*kernel_size, rows, columns)
    x_ = places(1, columns)[None, :, None, :].expand(*kernel_size, rows, columns)
    y = y.flatten(0, 1) + offset[:, :, 0]
    x_ = x_.flatten(0, 1) + offset[:, :, 1]
    # The derivative jumps where an offset meets a pixel, as one of 0 does: it is the
    # one towards the next pixel, and none at -1. grid_sample counts from edge to edge
    # in -1 ... 1, pixel p being at (2 p + 1) / n - 1. With n a power of two that is
    # exact for pixels, so that they stay on the same side; zeros fill the map up.
    sides = [1 << (side - 1).bit_length() for side in (height, width)]
    down = (2 * y.masked_fill(y <= -1, -2) + 1) / sides[0] - 1
    across = (2 * x_.masked_fill(x_ <= -1, -2) + 1) / sides[1] - 1
    grid = torch.stack([across, down], dim=-1).view(
        len(offset), taps * rows, columns, 2
    )
    maps = x.reshape(len(offset), channels // deform_groups, height, width)
    maps = F.pad(maps, (0, sides[1] - width, 0, sides[0] - height))
    sampled = F.grid_sample(maps, grid, align_corners=False)
    sampled = sampled.view(*sampled.shape[:2], taps, rows * columns)
    if mask is not None:
        sampled = sampled * mask.reshape(len(offset), 1, *sampled.shape[2:])
    return sampled.view(batch, channels, taps, rows * columns)


def convolve_columns(columns: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Multiplies what was read by the weights: ``(B, C_out, H_out * W_out)``."""
    batch, _, _, pixels = columns.shape
    weight = weight.reshape(groups, len(weight) // groups, -1)
    columns = columns.reshape(batch, groups, weight.shape[2], pixels)
    return (weight @ columns).flatten(1, 2)
