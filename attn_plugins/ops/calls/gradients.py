"""Backward functions from forward ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def vector_jacobian(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Returns the gradients of ``function(*inputs)`` in all inputs."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(function(*inputs), inputs, grad)


def fill(targets: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """Writes results where mmcv looks for them."""
    for target, result in zip(targets, results, strict=True):
        target.copy_(result)
