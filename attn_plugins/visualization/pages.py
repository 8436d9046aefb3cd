"""HTML pages that hold all they need: pictures inside, no script, no address."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 68rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem;
  border-bottom: 1px solid #bbb; overflow-wrap: anywhere; }
h3 { font-size: 1rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
td:not(:first-child, .number) { min-width: 12rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.warning { color: #8f3900; font-weight: bold; border-left: 4px solid #b34700;
  padding-left: .7rem; }
code { font-size: .85rem; }
nav a { margin-right: 1rem; }
"""


class Page:
    """A page that is written from top to bottom.

    Args:
        title: Its title and first heading.

    Example:
        >>> page = Page('A run')
        >>> page.heading('Curves')
        >>> page.text('None yet.')
        >>> page.render().startswith('<!DOCTYPE html>')
        True
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._headings: list[str] = []

    def heading(self, text: str) -> None:
        self._headings.append(text)
        name = f'section-{len(self._headings)}'
        self._parts.append(f'<h2 id="{name}">{html.escape(text)}</h2>')

    def subheading(self, text: str) -> None:
        self._parts.append(f'<h3>{html.escape(text)}</h3>')

    def text(self, text: str) -> None:
        self._parts.append(f'<p>{html.escape(text)}</p>')

    def warning(self, text: str) -> None:
        self._parts.append(f'<p class="warning">{html.escape(text)}</p>')

    def picture(self, picture: Figure | np.ndarray, description: str) -> None:
        """Adds a figure or an RGB picture ``(H, W, 3)``, 8-bit.

        Args:
            picture: The picture.
            description: What it shows, for those who cannot see it.
        """
        data = base64.b64encode(png_bytes(picture)).decode()
        self._parts.append(
            f'<p><img alt="{html.escape(description)}" '
            f'src="data:image/png;base64,{data}"></p>'
        )

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Adds a table; columns of numbers alone are aligned to the right.

        Args:
            header: Names of the columns; all empty for none.
            rows: The rows.
        """
        rows = [[str(value) for value in row] for row in rows]
        numeric = [
            bool(rows) and all(_is_number(row[column]) for row in rows)
            for column in range(len(header))
        ]

        def line(tag: str, cells: Sequence[str]) -> str:
            marks = (' class="number"' if number else '' for number in numeric)
            return ''.join(
                f'<{tag}{mark}>{html.escape(cell)}</{tag}>'
                for mark, cell in zip(marks, cells, strict=True)
            )

        head = f'<thead><tr>{line("th", header)}</tr></thead>\n' if any(header) else ''
        body = '\n'.join(f'<tr>{line("td", row)}</tr>' for row in rows)
        self._parts.append(
            f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody>\n'
            '</table></div>'
        )

    def render(self) -> str:
        """Returns the page's text."""
        links = '\n'.join(
            f'<a href="#section-{number}">{html.escape(text)}</a>'
            for number, text in enumerate(self._headings, 1)
        )
        title = html.escape(self.title)
        # The icon keeps browsers from asking a server for one.
        return '\n'.join(
            (
                '<!DOCTYPE html>',
                '<html lang="en">',
                '<head>',
                '<meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<link rel="icon" href="data:,">',
                f'<title>{title}</title>',
                f'<style>{STYLE}</style>',
                '</head>',
                '<body>',
                f'<h1>{title}</h1>',
                f'<nav>{links}</nav>',
                *self._parts,
                '</body>',
                '</html>',
                '',
            )
        )

    def write(self, path: str | Path) -> None:
        Path(path).write_text(self.render(), encoding='utf-8')


def png_bytes(picture: Figure | np.ndarray, dpi: int = 110) -> bytes:
    """Encodes a figure or an RGB picture as PNG."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format='png', dpi=dpi)
        return buffer.getvalue()
    return cv2.imencode('.png', np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip('%'))
    except ValueError:
        return False
    return True
