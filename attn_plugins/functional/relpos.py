"""Tables of relative positions for maps of any size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting


def resize_table(table: Tensor, size: int, *, keep_sum: bool = False) -> Tensor:
    """Fits a table of relative positions to a map of another size.

    Row ``offset + R - 1`` of a table for R positions is that of a key ``offset``
    positions after its query. On a smaller map the far offsets do not occur: they are
    cut off. On a larger one the table is stretched (linearly, its ends and its centre
    keep their rows), so that what was learned for the far end of the map stays there.

    Args:
        table: ``(2 * R - 1, D)``.
        size: Positions of the map along the axis.
        keep_sum: Whether a stretched table is made weaker by as much as it is longer:
            for attention without softmax, a sum that would grow with the map.

    Returns:
        ``(2 * size - 1, D)``; at ``size == R`` the table itself.

    Raises:
        ValueError: If the table is not a matrix of an odd number of rows, or the size
            is not positive.
    """
    if table.ndim != 2 or table.shape[0] % 2 == 0:
        raise ValueError(
            'table must be (2 * R - 1, D): one row per offset, '
            f'got {tuple(table.shape)}'
        )
    if size < 1:
        raise ValueError(f'size must be a positive integer, got {size!r}')
    reference = (table.shape[0] + 1) // 2
    if is_exporting():
        return _resized_to_any(table, reference, size, keep_sum)
    if size == reference:
        return table
    if size < reference:
        return table[reference - size : reference + size - 1]
    rows = 2 * size - 1
    stretched = F.interpolate(table.T[None], rows, mode='linear', align_corners=True)
    stretched = stretched[0].T
    return stretched * (reference / size) if keep_sum else stretched


def _resized_to_any(table: Tensor, reference: int, size: int, keep_sum: bool) -> Tensor:
    """:func:`resize_table` as one formula, for a size that is not known yet."""
    offsets = torch.arange(2 * size - 1, device=table.device) - (size - 1)
    # The farthest of the map, or of the table where that is larger: cut, not stretched.
    farthest = offsets[-1:].clamp(min=reference - 1)
    rows = offsets * (reference - 1) / farthest.clamp(min=1) + (reference - 1)
    last = 2 * (reference - 1)
    low = rows.floor().long().clamp(0, last)
    high = (low + 1).clamp(max=last)
    between = (rows - low).to(table.dtype).unsqueeze(1)
    resized = table[low] + between * (table[high] - table[low])
    return resized * (reference / (farthest + 1)) if keep_sum else resized


def position_windows(table: Tensor, size: int) -> Tensor:
    """Re-indexes a table from relative to absolute positions.

    Args:
        table: ``(..., 2 * size - 1, D)``.
        size: Positions of the map along the axis.

    Returns:
        ``(..., size, D, size)``: the row of the query at i for the key at j is
        ``[..., i, :, j]``.
    """
    if is_exporting():
        place = torch.arange(size, device=table.device)
        offsets = place - place.unsqueeze(1) + (size - 1)
        return table[..., offsets, :].mT
    # Windows of as many rows: the last of them starts at offset 0, where the first
    # query is.
    return table.unfold(-2, size, 1).flip(-3)
