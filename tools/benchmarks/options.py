"""Command line options that several commands have."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parse_size(text: str) -> tuple[int, int]:
    """Reads ``HxW``.

    Raises:
        argparse.ArgumentTypeError: If it is not that, or a side is 0.
    """
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise argparse.ArgumentTypeError(
            f'a size must be HxW, e.g. 97x129, got {text!r}'
        )
    return int(height), int(width)


def parse_sizes(texts: Sequence[str]) -> list[tuple[int, int]]:
    return [parse_size(text) for text in texts]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Adds what every command has that measures candidates in turns."""
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32'
    )
    parser.add_argument(
        '--seconds', type=float, default=2, help='time spent on each candidate'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'))
