"""Markdown tables."""

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a Markdown table whose first column is text and the others numbers."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    rule = [f':{"-" * (widths[0] - 1)}', *(f'{"-" * (w - 1)}:' for w in widths[1:])]
    lines = (
        [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]
        for cells in (header, rule, *rows)
    )
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
