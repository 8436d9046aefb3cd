"""Focal loss (arXiv 1708.02002) on logits, and on probabilities of a softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import widened


def sigmoid_focal_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> Tensor:
    """Computes -alpha (1 - p)^gamma log p of each class, p being sigmoid(x).

    For classes other than the target, p is 1 - sigmoid(x) and alpha 1 - alpha.

    Args:
        x: Logits, ``(N, C)``.
        target: Classes, ``(N,)``; a number that is no class stands for background.
        weight: ``(C,)``: factors of the rows by their target, which must be a class.
        gamma: How little well classified examples count.
        alpha: Factor of the target's class.

    Returns:
        ``(N, C)``, differentiable in ``x``.
    """
    wide = widened(x)
    is_target = target[:, None] == torch.arange(x.shape[1], device=x.device)
    signed = torch.where(is_target, wide, -wide)
    # (1 - p)^gamma by the logarithm: a power of 0 would have no gradient.
    loss = -F.logsigmoid(signed) * torch.exp(gamma * F.logsigmoid(-signed))
    loss = loss * torch.where(is_target, alpha, 1 - alpha).to(wide)
    if weight is not None:
        loss = loss * weight[target, None]
    return loss.to(x.dtype)


def softmax_focal_loss(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> Tensor:
    """Computes -alpha (1 - p)^gamma log p, p being that of the target.

    Args:
        probabilities: ``(N, C)``.
        target: Classes, ``(N,)``; the loss of a negative one is 0.
        weight: ``(C,)``: factors of the rows by their target.
        gamma: How little well classified examples count.
        alpha: Factor of all.

    Returns:
        ``(N,)``, differentiable in ``probabilities``.
    """
    p, factor = _target(probabilities, target, weight, alpha)
    loss = -factor * (1 - p) ** gamma * _log(p)
    return loss.to(probabilities.dtype)


def softmax_focal_loss_gradient(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> tuple[Tensor, Tensor]:
    """Returns the gradient of ``softmax_focal_loss`` in the logits of the softmax.

    Returns:
        ``p`` times the derivative in the target's probability p, ``(N,)``, and the
        gradient, ``(N, C)``.
    """
    p, factor = _target(probabilities, target, weight, alpha)
    rest = 1 - p
    # (1 - p)^(gamma - 1) p log p tends to 0 with 1 - p, for any gamma above 0.
    slope = torch.where(rest > 0, rest ** (gamma - 1) * p * _log(p), 0)
    towards = factor * (gamma * slope - rest**gamma)
    one_hot = F.one_hot(target.clamp(min=0), probabilities.shape[1])
    grad = towards[:, None] * (one_hot - widened(probabilities))
    return towards.to(probabilities.dtype), grad.to(probabilities.dtype)


def _target(
    probabilities: Tensor, target: Tensor, weight: Tensor | None, alpha: float
) -> tuple[Tensor, Tensor]:
    """Returns the target's probability and the factor of each row."""
    label = target.clamp(min=0)
    p = widened(probabilities).gather(1, label[:, None])[:, 0]
    factor = (target >= 0) * p.new_tensor(alpha)
    if weight is not None:
        factor = factor * weight[label]
    return p, factor


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()
