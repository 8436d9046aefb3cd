"""Backward functions from forward ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def vector_jacobian(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Returns the gradients of ``function(*inputs)`` in its inputs, or 0."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = function(*inputs)
        if not out.requires_grad:  # there was nothing to do, as without boxes
            return tuple(map(torch.zeros_like, inputs))
        return torch.autograd.grad(
            out, inputs, grad, allow_unused=True, materialize_grads=True
        )


def fill(targets: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """Writes results where mmcv looks for them."""
    for target, result in zip(targets, results, strict=True):
        target.copy_(result)
