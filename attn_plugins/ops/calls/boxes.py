"""Boxes beside boxes: suppression and overlaps."""

from torch import Tensor

from .. import overlaps
from ..nms import nms as nms
from ..soft_nms import nms_match as nms_match
from ..soft_nms import soft_nms


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    name = ('naive', 'linear', 'gaussian')[method]
    result, indices = soft_nms(
        boxes, scores, iou_threshold, sigma, min_score, name, offset
    )
    dets[: len(result)] = result
    return indices


def bbox_overlaps(
    bboxes1: Tensor,
    bboxes2: Tensor,
    ious: Tensor,
    *,
    mode: int,
    aligned: bool,
    offset: int,
) -> None:
    name = ('iou', 'iof')[mode]
    ious.copy_(overlaps.bbox_overlaps(bboxes1, bboxes2, name, aligned, offset))
