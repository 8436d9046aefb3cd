"""Batch norm as a scale and a shift, for layers that can do without its input.

A layer whose output's mean and variance have a closed form folds its batch norm into
its weights, in training as well. The norm stays a real ``nn.BatchNorm2d``, so that
``norm_eval``, SyncBN conversion, weight decay rules and checkpoints see it; only its
forward is not called.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_foldable(norm: nn.Module) -> bool:
    """Tells whether :func:`scale_and_shift` can stand in for ``norm``."""
    if not isinstance(norm, _BatchNorm):
        return False
    # In training a subclass with a forward of its own may take other statistics.
    forward = type(norm).forward
    is_plain = forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return is_plain or not _uses_batch_statistics(norm)


def _uses_batch_statistics(norm: _BatchNorm) -> bool:
    return norm.training or norm.running_mean is None


def scale_and_shift(
    norm: _BatchNorm, moments: Callable[[], tuple[Tensor, Tensor]], count: int
) -> tuple[Tensor, Tensor]:
    """Returns scale and shift with ``norm(y) == y * scale + shift``, per channel.

    In training it updates the running statistics, once, as ``norm(y)`` would. Those of
    a SyncBatchNorm are taken over all processes, each with the weight of its count.

    Args:
        norm: The batch norm.
        moments: Returns mean and biased variance of y; called only if they are needed.
        count: Values per channel that they are taken over.

    Raises:
        ValueError: If there is one value per channel to take statistics of.
    """
    if _uses_batch_statistics(norm):
        is_shared = isinstance(norm, nn.SyncBatchNorm) and dist.is_initialized()
        if count < 2 and not is_shared:
            raise ValueError(
                'batch norm in training needs more than 1 value per channel, got 1: '
                'use a larger batch or map, or put the norm into eval mode'
            )
        mean, var = moments()
        if is_shared:
            mean, var, count = _over_processes(mean, var, count, norm.process_group)
        if norm.training and norm.track_running_stats:
            _update_running_statistics(norm, mean, var * (count / (count - 1)))
    else:
        mean, var = norm.running_mean, norm.running_var
    dtype = torch.promote_types(mean.dtype, torch.float32)
    scale = torch.rsqrt(var.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean.to(dtype) * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale, shift


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Returns ``norm(x)``, for an ``x`` of a wider type than the parameters as well.

    torch's own kernels refuse that, and rounded first ``x`` could be infinite.

    Args:
        norm: The norm; of a wider ``x``, one that folds, or it is rounded after all.
        x: ``(B, C, ...)``.
    """
    weight = getattr(norm, 'weight', None)
    if weight is None or x.itemsize <= weight.itemsize:
        return norm(x)
    if not is_foldable(norm):
        return norm(x.to(weight.dtype))

    def moments() -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x.transpose(0, 1).flatten(1), dim=1, correction=0)
        return mean, var

    scale, shift = scale_and_shift(norm, moments, x[:, 0].numel())
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * scale.view(shape) + shift.view(shape)


def _over_processes(
    mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the values of all processes, differentiable, and their number."""
    # Here, not above: it does not exist in a torch without distributed support.
    from torch.distributed.nn.functional import all_reduce

    group = dist.group.WORLD if group is None else group
    sums = all_reduce(torch.cat([count * mean, mean.new_tensor([count])]), group=group)
    total = sums[-1].detach()
    together = sums[:-1] / total
    # Two steps: the difference of two squares would cancel.
    spread = all_reduce(count * (var + (mean - together).square()), group=group)
    return together, spread / total, total


@torch.no_grad()
def _update_running_statistics(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:  # a cumulative average
        momentum = 1 / norm.num_batches_tracked.item()
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), momentum)
