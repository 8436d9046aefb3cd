"""Half precision where its range, not its rounding, is the trouble.

A sum of products of two maps has the square of their scale, and float16 ends at 65504.
bfloat16 has the range of float32.
"""

import contextlib

import torch
from torch import Tensor


def fp16_to_fp32(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Returns the tensors in float32 if they are float16, else as they are."""
    return tuple(
        t.float() if t is not None and t.dtype == torch.float16 else t for t in tensors
    )


def autocast_off_if_fp16(x: Tensor) -> contextlib.AbstractContextManager:
    """Disables autocast if ``x`` is float16: sums of its products overflow at 65504."""
    if x.dtype == torch.float16:
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def clamp_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts ``x``; what is out of the range of ``dtype`` becomes its largest number."""
    if x.dtype == dtype:
        return x
    limits = torch.finfo(dtype)
    return x.clamp(limits.min, limits.max).to(dtype)
