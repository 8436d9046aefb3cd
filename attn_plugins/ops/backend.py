"""Chooses between torchvision's kernels and plain torch."""

from functools import cache

import torch
from torch import Tensor

# None: whatever is faster. Tests and benchmarks set 'torch' or 'torchvision'.
forced: str | None = None


def uses_torchvision(x: Tensor) -> bool:
    """Tells whether torchvision's kernel is to work on ``x``.

    On a CPU plain torch is as fast, and needs no second library.
    """
    if forced is not None:
        return forced == 'torchvision'
    return x.is_cuda and has_torchvision()


@cache
def has_torchvision() -> bool:
    """Tells whether torchvision's compiled operators load with this torch."""
    try:
        from torchvision.extension import _has_ops
    except (ImportError, RuntimeError, AttributeError):  # built for another torch
        return False
    return _has_ops()


def widened(x: Tensor) -> Tensor:
    """Returns ``x`` in float32 if it has fewer bits: results are rounded once."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def known_to_torchvision(x: Tensor) -> Tensor:
    """Returns ``x`` in a type that torchvision's kernels have: bfloat16 is none."""
    return x.float() if x.dtype == torch.bfloat16 else x
