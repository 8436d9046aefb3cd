"""Checks of arguments and inputs that several layers share: one clear error each."""

from collections.abc import Sequence

from torch import Tensor, nn


def check_positive(**sizes: int) -> None:
    """Raises ``ValueError`` unless every size is a positive integer."""
    for name, size in sizes.items():
        if not _is_size(size):
            raise ValueError(f'{name} must be a positive integer, got {size!r}')


def check_flags(**flags: bool) -> None:
    """Raises ``ValueError`` unless every flag is True or False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f'{name} must be True or False, got {flag!r}')


def check_divides(**sizes: int) -> None:
    """Raises ``ValueError`` unless the first size divides the second."""
    (divisor_name, divisor), (name, size) = sizes.items()
    if size % divisor:
        raise ValueError(
            f'{name} must be divisible by {divisor_name}={divisor}, got {name}={size}'
        )


def check_map(layer: nn.Module, x: Tensor) -> None:
    """Raises ``ValueError`` unless ``x`` is ``(B, layer.in_channels, H, W)``.

    The batch may be empty, the map may not. Its numbers must be floating-point.
    """
    if x.ndim != 4 or x.shape[1] != layer.in_channels:
        raise ValueError(
            f'{type(layer).__name__}(in_channels={layer.in_channels}) expects '
            f'(B, {layer.in_channels}, H, W), got {tuple(x.shape)}'
        )
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(
            f'{type(layer).__name__} expects a map of at least one pixel, '
            f'got {tuple(x.shape)}'
        )
    if not x.is_floating_point():
        raise _not_floating_point(layer, x)


def check_tokens(layer: nn.Module, x: Tensor) -> None:
    """Raises ``ValueError`` unless ``x`` is ``(B, N, layer.in_channels)``."""
    if x.ndim != 3 or x.shape[2] != layer.in_channels:
        raise ValueError(
            f'{type(layer).__name__}(in_channels={layer.in_channels}) expects '
            f'(B, N, {layer.in_channels}), got {tuple(x.shape)}'
        )
    if not x.is_floating_point():
        raise _not_floating_point(layer, x)


def _not_floating_point(layer: nn.Module, x: Tensor) -> ValueError:
    return ValueError(
        f'{type(layer).__name__} expects floating-point numbers, got {x.dtype}: '
        'call .float() on it first'
    )


def height_and_width(**sizes: int | Sequence[int]) -> tuple[int, int]:
    """Returns ``(H, W)`` of the one size, which is a number for both or a pair.

    Raises:
        ValueError: If it is neither, or not positive.
    """
    ((name, size),) = sizes.items()
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(_is_size, pair)):
        raise ValueError(
            f'{name} must be a positive integer, or two of them for height and width, '
            f'got {size!r}'
        )
    return tuple(pair)


def _is_size(size: object) -> bool:
    # True is an int for Python, and no size.
    return isinstance(size, int) and not isinstance(size, bool) and size > 0
