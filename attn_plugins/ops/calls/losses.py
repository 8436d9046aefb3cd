"""Focal losses. mmcv multiplies their gradients by that of the result itself."""

import torch
from torch import Tensor

from ..focal_loss import (
    sigmoid_focal_loss,
    softmax_focal_loss,
    softmax_focal_loss_gradient,
)
from .gradients import fill, vector_jacobian


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    output.copy_(sigmoid_focal_loss(input, target, _given(weight), gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    grads = vector_jacobian(
        lambda x: sigmoid_focal_loss(x, target, _given(weight), gamma, alpha),
        (input,),
        torch.ones_like(input),
    )
    fill((grad_input,), grads)


def softmax_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    output.copy_(softmax_focal_loss(input, target, _given(weight), gamma, alpha))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    grads = softmax_focal_loss_gradient(input, target, _given(weight), gamma, alpha)
    fill((buff, grad_input), grads)


def _given(weight: Tensor) -> Tensor | None:
    """Returns None for the empty tensor that stands for no weights."""
    return weight if weight.numel() else None
