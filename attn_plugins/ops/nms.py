"""Non-maximum suppression of boxes."""

import torch
from torch import Tensor

from .backend import uses_torchvision, widened

# Pairs of boxes in memory at a time.
PAIRS = 1 << 18


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Keeps each box that overlaps no better one that is kept.

    Boxes of equal score keep their order.

    Args:
        boxes: ``(N, 4)``: x1, y1, x2, y2.
        scores: ``(N,)``.
        iou_threshold: Intersection over union above which (strictly) the box of the
            lower score goes.
        offset: Added to the sides of boxes: 1 where x2 and y2 belong to the box.

    Returns:
        The numbers of the kept boxes, best first: ``(K,)``, int64.
    """
    boxes = widened(boxes.detach())
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    if uses_torchvision(boxes):
        return torch.ops.torchvision.nms(boxes, widened(scores), iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    rest = torch.arange(len(boxes), device=boxes.device)
    kept, size = [], 256
    # The best boxes suppress most others: they go first, so that these are not compared
    # with one another.
    while len(rest):
        block, rest = rest[:size], rest[size:]
        block = block[_keep_sorted(boxes[block], iou_threshold)]
        kept.append(block)
        if len(rest):
            rest = rest[~_suppressed(boxes[rest], boxes[block], iou_threshold)]
        size = min(4 * size, 4096)
    return order[torch.cat(kept)] if kept else order


def _keep_sorted(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Tells for boxes in the order of their scores which ones are kept.

    Each box is kept unless a kept one suppresses it. Repeating that rule from "all are
    kept" settles box by box, in as many rounds as the longest chain of suppressions has
    links.
    """
    left, order = boxes[:, 0].sort()
    boxes = boxes[order].T.contiguous()
    following = torch.arange(1, len(left) + 1, device=left.device)
    pairs = _overlaps(boxes, boxes, following, iou_threshold)
    better, worse = order[pairs].sort(dim=0).values
    keep = torch.ones_like(order, dtype=torch.bool)
    while True:
        settled = torch.ones_like(keep)
        settled[worse[keep[better]]] = False
        if torch.equal(settled, keep):
            return keep
        keep = settled


def _suppressed(boxes: Tensor, kept: Tensor, iou_threshold: float) -> Tensor:
    """Tells which boxes one of the kept ones overlaps by more than the threshold."""
    result = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    left, order = boxes[:, 0].sort()
    boxes = boxes[order].T.contiguous()
    kept = kept[kept[:, 0].argsort()].T.contiguous()
    first = torch.searchsorted(left, kept[0])
    result[order[_overlaps(kept, boxes, first, iou_threshold)[1]]] = True
    first = torch.searchsorted(kept[0], left, right=True)
    result[order[_overlaps(boxes, kept, first, iou_threshold)[0]]] = True
    return result


def _overlaps(a: Tensor, b: Tensor, first: Tensor, iou_threshold: float) -> Tensor:
    """Returns the pairs of a box of ``a`` and one of ``b`` that overlap by more.

    Two boxes share at most the part of the left one that lies right of the other's x1.
    So that is less than (1 - threshold) widths away, and of boxes sorted by x1 those in
    reach alone have to be compared.

    Args:
        a: ``(4, N)``, sorted by x1.
        b: ``(4, M)``, sorted by x1.
        first: ``(N,)``: for each of ``a`` the first one of ``b`` whose x1 is not left
            of its own.
        iou_threshold: What their intersection over union must exceed.

    Returns:
        Their numbers in a and in b: ``(2, P)``.
    """
    last = torch.full_like(first, b.shape[1])
    if iou_threshold >= 0:  # a negative one is exceeded by boxes that are apart
        # A little more than the reach, for the rounding of the overlap.
        reach = (1 - iou_threshold + 1e-4) * (a[2] - a[0]).double()
        last = torch.searchsorted(b[0].double(), a[0] + reach, right=True)
    counts = (last - first).clamp_(min=0)
    rows = (
        (counts.cumsum(0) // PAIRS).unique_consecutive(return_counts=True)[1].tolist()
    )
    start, found = 0, []
    for chunk, begin in zip(counts.split(rows), first.split(rows), strict=True):
        numbers = torch.arange(len(chunk), device=a.device)
        i = torch.repeat_interleave(numbers, chunk)
        j = torch.arange(len(i), device=a.device)
        j += (begin - chunk.cumsum(0) + chunk)[i]
        i += start
        start += len(chunk)
        x1, y1, x2, y2 = a.index_select(1, i)
        u1, v1, u2, v2 = b.index_select(1, j)
        width = (torch.minimum(x2, u2) - u1).clamp_(min=0)
        height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0)
        shared = width * height
        union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
        found.append(torch.stack([i, j])[:, shared / union > iou_threshold])
    return torch.cat(found, dim=1)
