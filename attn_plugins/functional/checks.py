"""Checks of arguments that several functions, and the layers over them, share."""

import math

from torch import Tensor


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        expected = ', '.join(repr(choice) for choice in choices)
        raise ValueError(f'{name} must be one of {expected}, got {value!r}')


def check_normalization(normalization: str, eps: float = 0.0) -> None:
    """Raises ``ValueError`` unless attention can be normalised like this."""
    check_choice('normalization', normalization, ('double', 'softmax'))
    is_number = isinstance(eps, (int, float)) and 0 <= eps < math.inf
    if not is_number or (eps and normalization != 'double'):
        raise ValueError(
            "eps must be >= 0, and 0 unless normalization='double', "
            f'got eps={eps!r} with normalization={normalization!r}'
        )


def check_shape(
    name: str, tensor: Tensor, expected: tuple[int | None, ...], fits: str
) -> None:
    """Raises ``ValueError`` unless the shape is as expected; None is any size."""
    if tensor.ndim != len(expected) or any(
        size is not None and size != found
        for size, found in zip(expected, tensor.shape, strict=True)
    ):
        sizes = ', '.join('*' if size is None else str(size) for size in expected)
        raise ValueError(
            f'{name} must be ({sizes}) to fit {fits}, got {tuple(tensor.shape)}'
        )
