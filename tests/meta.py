"""Networks without memory for their weights."""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import torch


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Puts what is built inside on the meta device."""
    # mmpretrain's ResNet reads the values of its linspace.
    linspace = functools.partial(torch.linspace, device='cpu')
    with torch.device('meta'), mock.patch('torch.linspace', linspace):
        yield
