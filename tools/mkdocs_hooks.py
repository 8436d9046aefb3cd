"""What the documentation's site adds to pages: formulas, model zoo, plain docstrings.

GitHub draws ``math`` fences by itself. Here they become MathML, which browsers draw
without fonts or scripts from elsewhere.
"""

import re
from itertools import groupby
from operator import attrgetter

import griffe
from latex2mathml.converter import convert

from attn_plugins.cli.configs import Entry, read_catalogue

MATH = re.compile(r'^```math\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
ZOO = '<!-- the tables of `python -m attn_plugins configs list` -->'
COLUMNS = ('config', 'data', 'row', 'printed in the paper', 'params', 'MACs', 'at')


def on_page_markdown(markdown: str, **mkdocs: object) -> str:
    return MATH.sub(mathml, markdown).replace(ZOO, zoo())


def mathml(fence: re.Match) -> str:
    """Draws the lines of a fence below each other, a formula each."""
    formulas = (line for line in fence[1].splitlines() if line.strip())
    drawn = (convert(formula.rstrip('\\ '), display='block') for formula in formulas)
    return '\n'.join(f'<div>{formula}</div>' for formula in drawn)


def zoo() -> str:
    """Sets out the catalogue as a table for each method."""
    entries = sorted(read_catalogue().values(), key=attrgetter('method'))
    methods = groupby(entries, key=attrgetter('method'))
    return '\n\n'.join(section(method, list(group)) for method, group in methods)


def section(method: str, entries: list[Entry]) -> str:
    rows = (
        (
            f'`{entry.name}`',
            entry.dataset,
            entry.table,
            entry.figures,
            f'{entry.params / 1e6:.2f} M',
            f'{entry.macs / 1e9:.1f} G',
            entry.image_size,
        )
        for entry in entries
    )
    lines = [f'## {method}', '', _row(COLUMNS), _row('---' for _ in COLUMNS)]
    return '\n'.join([*lines, *map(_row, rows)])


def _row(cells) -> str:
    return f'| {" | ".join(cells)} |'


class PlainDocstrings(griffe.Extension):
    """Reads docstrings as Markdown that were written for Python's own ``help``."""

    def on_object(self, *, obj: griffe.Object, **griffe_options: object) -> None:
        if obj.docstring:
            text = re.sub(r':(?:class|func|meth|mod):(?=`)', '', obj.docstring.value)
            obj.docstring.value = re.sub(r'(?m)^( *)Example:$', r'\1Examples:', text)
