"""Two kinds of non-maximum suppression that go box by box.

Soft-NMS (arXiv 1704.04503) lowers the scores of boxes in place of dropping them.
``nms_match`` tells which kept box each dropped one belongs to. What one box does to the
others is worked out at once, but the boxes follow one another.
"""

import torch
from torch import Tensor

from .backend import widened
from .overlaps import area


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = 'linear',
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Takes the best box, lowers the scores of those that overlap it, and so on.

    Args:
        boxes: ``(N, 4)``: x1, y1, x2, y2.
        scores: ``(N,)``.
        iou_threshold: Intersection over union from which on ``'linear'`` and
            ``'naive'`` take effect.
        sigma: Of ``'gaussian'``: the larger, the less it lowers.
        min_score: Boxes go as soon as their score is lower. The best one stays.
        method: A score is multiplied by 1 - IoU (``'linear'``), by
            exp(-IoU^2 / sigma) (``'gaussian'``) or by 0 (``'naive'``).
        offset: Added to the sides of boxes: 1 where x2 and y2 belong to the box.

    Returns:
        Boxes with their new scores, ``(K, 5)``, and their numbers, ``(K,)``, int64,
        both in the order in which they were taken.
    """
    numbers = torch.arange(len(boxes), device=boxes.device)
    sides = list(widened(boxes.detach()).unbind(1))
    # Rows: x1, y1, x2, y2, area. A column is a box that is not taken yet.
    rest = torch.stack([*sides, area(sides, offset)])
    left = widened(scores.detach()).clone()
    taken, taken_scores = [], []
    while len(left):
        best = _best(left)
        taken.append(numbers[best].clone())
        taken_scores.append(left[best].clone())
        box = rest[:, best : best + 1].clone()
        # The first one moves to the gap: among equal scores this order decides.
        for x in (rest, left, numbers):
            x[..., best] = x[..., 0]
        rest, left, numbers = rest[:, 1:], left[1:], numbers[1:]
        iou = _overlap(box, rest, offset)
        if method == 'gaussian':
            left = left * torch.exp(-(iou * iou) / sigma)
        else:
            lowered = left * (1 - iou) if method == 'linear' else torch.zeros_like(left)
            left = torch.where(iou >= iou_threshold, lowered, left)
        low = left < min_score
        if low.any():
            order = _closed_gaps(~low)
            rest = rest.index_select(1, order)
            left, numbers = left[order], numbers[order]
    if not taken:
        return boxes.new_zeros(0, 5), numbers
    indices = torch.stack(taken)
    new_scores = torch.stack(taken_scores).to(boxes.dtype)
    return torch.cat([boxes[indices], new_scores[:, None]], dim=1), indices


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups boxes by the box that suppresses them.

    Boxes of equal score keep their order.

    Args:
        dets: ``(N, 5)``: x1, y1, x2, y2, score.
        iou_threshold: Intersection over union from which on the box of the lower score
            goes.

    Returns:
        For each kept box, best first, its number and those of the boxes that it
        suppresses, in the order of their scores.
    """
    dets = widened(dets.detach())
    numbers = dets[:, 4].argsort(descending=True, stable=True)
    sides = list(dets[numbers, :4].unbind(1))
    rest = torch.stack([*sides, area(sides)])
    groups = []
    while len(numbers):
        member = _overlap(rest[:, :1], rest, 0) >= iou_threshold
        member[0] = True
        groups.append(numbers[member].tolist())
        others = (~member).nonzero()[:, 0]
        numbers, rest = numbers[others], rest.index_select(1, others)
    return groups


def _best(scores: Tensor) -> int:
    """Returns the place of the first of the largest scores.

    Not a number, as two empty boxes give by 'gaussian', is larger than none and none is
    larger than it: it is taken where it comes first.
    """
    best = scores.argmax()
    if scores[best].isnan():
        best = (
            0
            if scores[0].isnan()
            else scores.nan_to_num(-torch.inf, torch.inf).argmax()
        )
    return int(best)


def _overlap(box: Tensor, rest: Tensor, offset: int) -> Tensor:
    """Returns the IoU of a box ``(5, 1)`` with each of ``(5, N)``."""
    upper = torch.maximum(rest[:2], box[:2])
    lower = torch.minimum(rest[2:4], box[2:4])
    width, height = (lower - upper + offset).clamp_(min=0)
    shared = width * height
    return shared / (box[4] + rest[4] - shared)


def _closed_gaps(kept: Tensor) -> Tensor:
    """Returns the order of those kept when the last ones move into the gaps."""
    count = int(kept.sum())
    order = torch.arange(count, device=kept.device)
    gaps = (~kept[:count]).nonzero()[:, 0]
    order[gaps] = kept[count:].nonzero()[:, 0].flip(0) + count
    return order
