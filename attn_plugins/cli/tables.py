"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

ENDLESS = 10_000  # the width of what is not a terminal: a file, a pipe


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows in columns.

    Args:
        header: Names of the columns; those that begin with ``>`` are of numbers.
        rows: The rows.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(header):
        justify = 'right' if name.startswith('>') else 'left'
        label = name.removeprefix('>')
        table.add_column(label, justify=justify, overflow='fold', no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(
        width=None if sys.stdout.isatty() else ENDLESS, markup=False, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    print('\n'.join(line.rstrip() for line in captured.get().splitlines()))
