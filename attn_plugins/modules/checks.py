"""Checks of arguments and inputs that several layers share: one clear error each."""

from collections.abc import Sequence

from torch import Tensor, nn


def check_positive(**sizes: int) -> None:
    """Raises ``ValueError`` unless every size is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f'{name} must be a positive integer, got {size!r}')


def check_divides(**sizes: int) -> None:
    """Raises ``ValueError`` unless the first size divides the second."""
    (divisor_name, divisor), (name, size) = sizes.items()
    if size % divisor:
        raise ValueError(
            f'{name} must be divisible by {divisor_name}={divisor}, got {name}={size}'
        )


def check_map(layer: nn.Module, x: Tensor) -> None:
    """Raises ``ValueError`` unless ``x`` is ``(B, layer.in_channels, H, W)``."""
    if x.ndim != 4 or x.shape[1] != layer.in_channels:
        raise ValueError(
            f'{type(layer).__name__}(in_channels={layer.in_channels}) expects '
            f'(B, {layer.in_channels}, H, W), got {tuple(x.shape)}'
        )


def check_tokens(layer: nn.Module, x: Tensor) -> None:
    """Raises ``ValueError`` unless ``x`` is ``(B, N, layer.in_channels)``."""
    if x.ndim != 3 or x.shape[2] != layer.in_channels:
        raise ValueError(
            f'{type(layer).__name__}(in_channels={layer.in_channels}) expects '
            f'(B, N, {layer.in_channels}), got {tuple(x.shape)}'
        )


def height_and_width(**sizes: int | Sequence[int]) -> tuple[int, int]:
    """Returns ``(H, W)`` of the one size, which is a number for both or a pair.

    Raises:
        ValueError: If it is neither, or not positive.
    """
    ((name, size),) = sizes.items()
    pair = (size, size) if isinstance(size, int) else size
    if (
        not isinstance(pair, Sequence)
        or len(pair) != 2
        or not all(isinstance(side, int) and side > 0 for side in pair)
    ):
        raise ValueError(
            f'{name} must be a positive integer, or two of them for height and width, '
            f'got {size!r}'
        )
    return tuple(pair)
