"""Half precision where its range, not its rounding, is the trouble.

A sum of products of two maps has the square of their scale, and float16 ends at 65504.
bfloat16 has the range of float32.
"""

import contextlib

import torch
from torch import Tensor


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns the tensors in float32 if they are float16, else as they are."""
    return tuple(t.float() if t.dtype == torch.float16 else t for t in tensors)


def kept_wide(x: Tensor) -> contextlib.AbstractContextManager:
    """Returns a context in which autocast leaves what comes of a float16 ``x`` wide.

    Args:
        x: What the products are made of, before :func:`widened`.
    """
    if x.dtype == torch.float16:
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts ``x``; what is out of the range of ``dtype`` becomes its largest number."""
    if x.dtype == dtype:
        return x
    limits = torch.finfo(dtype)
    return x.clamp(limits.min, limits.max).to(dtype)
