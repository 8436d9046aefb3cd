"""Batch norm as a scale and a shift, for layers that can do without its input.

A layer whose output's mean and variance have a closed form folds its batch norm into
its weights, in training as well. The norm stays a real ``nn.BatchNorm2d``, so that
``norm_eval``, SyncBN conversion, weight decay rules and checkpoints see it; only its
forward is not called.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Moments = tuple[Tensor, Tensor]


class BatchNorm(NamedTuple):
    """A batch norm as values, much as ``torch.nn.functional.batch_norm`` takes them.

    Attributes:
        weight: ``(C,)``, or None.
        bias: ``(C,)``, or None.
        running_mean: ``(C,)``, or None; moves in place where ``needs_moments``.
        running_var: ``(C,)``, or None; likewise.
        num_batches_tracked: Steps so far, or None; likewise.
        momentum: Of the running statistics; None for a cumulative average.
        eps: Added to the variance.
        needs_moments: Whether the statistics are those of the batch.
        group: Processes that share the statistics, or None.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    momentum: float | None
    eps: float
    needs_moments: bool
    group: object | None


def batch_norm_values(norm: nn.Module) -> BatchNorm | None:
    """Returns the values of a norm, or None if they do not say all that it does.

    They do for a batch norm with torch's own forward, and for any in eval mode: in
    training a forward of its own may take other statistics.
    """
    if not isinstance(norm, _BatchNorm):
        return None
    needs_moments = norm.training or norm.running_mean is None
    forward = type(norm).forward
    if needs_moments and forward not in (
        _BatchNorm.forward,
        nn.SyncBatchNorm.forward,
    ):
        return None
    group = None
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_initialized():
        group = norm.process_group or dist.group.WORLD
    is_known = norm.track_running_stats or not norm.training
    return BatchNorm(
        norm.weight,
        norm.bias,
        norm.running_mean if is_known else None,
        norm.running_var if is_known else None,
        norm.num_batches_tracked,
        norm.momentum,
        norm.eps,
        needs_moments,
        group,
    )


def scale_and_shift(
    norm: BatchNorm, moments: Moments | None, count: int
) -> tuple[Tensor, Tensor]:
    """Returns scale and shift with ``norm(y) == y * scale + shift``, per channel.

    In training it moves the running statistics, once, as ``norm(y)`` would. Those of
    a SyncBatchNorm are taken over all processes, each with the weight of its count.

    Args:
        norm: The batch norm.
        moments: Mean and biased variance of y, ``(C,)`` each; None unless the norm
            ``needs_moments``.
        count: Values per channel that they are taken over.

    Raises:
        ValueError: If there is one value per channel to take statistics of.
    """
    if norm.needs_moments:
        if count < 2 and norm.group is None:
            raise ValueError(
                'batch norm in training needs more than 1 value per channel, got 1: '
                'use a larger batch or map, or put the norm into eval mode'
            )
        mean, var = moments
        if norm.group is not None:
            mean, var, count = _over_processes(mean, var, count, norm.group)
        if norm.running_mean is not None:
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
    """Returns ``norm(x)``, also where ``x`` has more bits than the norm's weights.

    torch's own kernels refuse that, and cast down first ``x`` could be infinite.

    Args:
        norm: Norm to apply. If x has more bits than its weights and it is not a batch
            norm that folds, x is cast down first.
        x: ``(B, C, ...)``.
    """
    weight = getattr(norm, 'weight', None)
    if weight is None or x.itemsize <= weight.itemsize:
        return norm(x)
    values, moments = batch_norm_values(norm), None
    if values is None:
        return norm(x.to(weight.dtype))
    if values.needs_moments:
        channels = x.transpose(0, 1).flatten(1)
        moments = torch.var_mean(channels, dim=1, correction=0)[::-1]
    scale, shift = scale_and_shift(values, moments, x[:, 0].numel())
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * scale.view(shape) + shift.view(shape)


def _over_processes(
    mean: Tensor, var: Tensor, count: int, group: object
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the values of all processes, differentiable, and their number."""
    # Here, not above: it does not exist in a torch without distributed support.
    from torch.distributed.nn.functional import all_reduce

    sums = all_reduce(torch.cat([count * mean, mean.new_tensor([count])]), group=group)
    total = sums[-1].detach()
    together = sums[:-1] / total
    # Two steps: the difference of two squares would cancel.
    spread = all_reduce(count * (var + (mean - together).square()), group=group)
    return together, spread / total, total


@torch.no_grad()
def _update_running_statistics(norm: BatchNorm, mean: Tensor, var: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / norm.num_batches_tracked.item()
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), momentum)
