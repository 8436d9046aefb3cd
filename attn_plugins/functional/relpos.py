"""Tables of relative positions for maps of any size."""

import torch.nn.functional as F
from torch import Tensor


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
    if size == reference:
        return table
    if size < reference:
        return table[reference - size : reference + size - 1]
    rows = 2 * size - 1
    stretched = F.interpolate(table.T[None], rows, mode='linear', align_corners=True)
    stretched = stretched[0].T
    return stretched * (reference / size) if keep_sum else stretched
