"""A convolution at some pixels only: what it reads there, and where results go."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_columns(
    x: Tensor,
    rows: Tensor,
    columns: Tensor,
    kernel_size: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Reads the input under the kernel, at some pixels of the result.

    Args:
        x: ``(1, C, H, W)``.
        rows: Of the pixels, ``(N,)``.
        columns: Of the pixels, ``(N,)``.
        kernel_size: Height and width.
        padding: Zeros above and below, left and right.

    Returns:
        ``(C * K, N)``, differentiable in ``x``.
    """
    high, wide = padding
    padded = F.pad(x[0], (wide, wide, high, high))
    y = torch.arange(kernel_size[0], device=x.device)[:, None, None] + rows
    x_ = torch.arange(kernel_size[1], device=x.device)[:, None] + columns
    return padded[:, y, x_].flatten(0, 2)


def masked_map(
    results: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]
) -> Tensor:
    """Puts results back to their pixels: ``(C, N)`` to ``(1, C, H, W)``, else zeros."""
    out = results.new_zeros(len(results), *size)
    out[:, rows, columns] = results
    return out[None]
