"""Gradient checkpointing that leaves the statistics of batch norm alone.

A checkpointed forward runs twice, and a batch norm in training would move its running
statistics twice: with momentum 0.1 by 0.19 of the way.
"""

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Undoes what happens to running statistics inside ``module`` meanwhile.

    The norms work on copies: autograd may hold on to the originals, which must not
    change in place.
    """
    kept = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def checkpoint_forward(
    module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Returns ``forward(x)``, computed again in the backward pass.

    Args:
        module: What ``forward`` belongs to; its running statistics move once.
        forward: The function.
        x: Its input.
    """
    return checkpoint(
        forward,
        x,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), kept_statistics(module)),
    )
