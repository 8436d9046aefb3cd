"""Intersection over union of boxes."""

import torch
from torch import Tensor

from .backend import widened


def bbox_overlaps(
    a: Tensor, b: Tensor, mode: str = 'iou', aligned: bool = False, offset: int = 0
) -> Tensor:
    """Compares boxes by the area that they share.

    Args:
        a: ``(N, 4)``: x1, y1, x2, y2.
        b: ``(M, 4)``.
        mode: What the shared area is divided by: ``'iou'``, the union of the two, or
            ``'iof'``, the area of the box of ``a``.
        aligned: Whether to compare the boxes one by one, so that N = M.
        offset: Added to the sides of boxes: 1 where x2 and y2 belong to the box.

    Returns:
        ``(N, M)``, or ``(N,)`` if aligned. Not a number where the divisor is 0.
    """
    dtype = a.dtype
    a, b = widened(a).unbind(-1), widened(b).unbind(-1)
    if not aligned:
        a = [side[:, None] for side in a]
    width = torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0]) + offset
    height = torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1]) + offset
    shared = width.clamp(min=0) * height.clamp(min=0)
    whole = area(a, offset)
    if mode == 'iou':
        whole = whole + area(b, offset) - shared
    return (shared / whole).to(dtype)


def area(sides: tuple[Tensor, ...] | list[Tensor], offset: int = 0) -> Tensor:
    """Returns the area of boxes from their x1, y1, x2 and y2."""
    x1, y1, x2, y2 = sides
    return (x2 - x1 + offset) * (y2 - y1 + offset)
