"""Contact sheets: the maps of a layer over the image, with names and value ranges."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from .attention import Attention, AttentionMap, Point
from .panels import WARNING_COLOUR

# Both run evenly for every kind of colour vision, and in grey.
SEQUENTIAL = matplotlib.colormaps['viridis']
SIGNED = matplotlib.colormaps['PuOr_r']
UNTRAINED = (
    'Untrained weights: no checkpoint was loaded. This shows random numbers, not what '
    'the method learns.'
)
# How much of the image the colours let through.
OPACITY = 0.7
# Of the lines above the panels, 9 points high: plain and bold.
LETTERS_PER_INCH = (13.5, 11.5)


def attention_sheet(
    image: np.ndarray,
    attention: Attention,
    points: Sequence[Point] = (),
    *,
    warning: str = '',
    width: float = 10.0,
) -> Figure:
    """Draws the image and over it, one panel each, the maps of a layer.

    Every panel has its own colours, over the range of its values, unless the map names
    its limits. Cells are drawn as cells: a map is as coarse as the layer's.

    Args:
        image: What the maps lie over, RGB ``(H, W, 3)``, 8-bit.
        attention: The maps.
        points: Points that are marked in the image.
        warning: A line that nobody may miss, such as :data:`UNTRAINED`.
        width: Width of the figure in inches.
    """
    panels = 1 + len(attention.maps)
    across = 4 if panels <= 16 else 6
    columns = min(across, panels)
    rows = math.ceil(panels / columns)
    cell_width = width / across
    height = cell_width * image.shape[0] / image.shape[1] + 0.62
    # A sheet of one or two maps is still as wide as its title.
    width = max(cell_width * columns, 0.75 * width)
    lines = [f'{attention.name}  ({attention.kind})']
    lines += textwrap.wrap('; '.join(attention.notes), int(width * LETTERS_PER_INCH[0]))
    warnings = textwrap.wrap(warning, int(width * LETTERS_PER_INCH[1]))
    head = 0.24 * (len(lines) + len(warnings)) + 0.15
    figure = Figure(figsize=(width, rows * height + head), layout='constrained')
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / figure.get_figheight()))
    _write_head(figure, lines, warnings)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    grid = iter(grid)
    first = next(grid)
    first.imshow(image)
    first.set_title('input', fontsize=9)
    # Room as for the scales of the others, so that the pictures stand in line.
    room = _add_scale(figure, first, ScalarMappable(), [0], [' '])
    room.outline.set_visible(False)
    room.solids.set_visible(False)
    room.ax.tick_params(length=0)
    for number, point in enumerate(points, 1):
        _mark(first, image, point, str(number) if len(points) > 1 else '')
    grey = image.mean(2).astype(np.uint8)
    for axes, item in zip(grid, attention.maps, strict=False):
        _draw_map(figure, axes, grey, item)
    return figure


def gate_overview(
    image: np.ndarray, attentions: Sequence[Attention], *, warning: str = ''
) -> Figure:
    """Draws the gates of all LESA layers side by side, stage after stage.

    Args:
        image: As in :func:`attention_sheet`.
        attentions: Layers; those without a gate are left out.
        warning: As there.

    Raises:
        ValueError: If none of them has a gate.
    """
    maps = [
        item._replace(
            label=f'{_shortened(attention.name, 28)}: {item.values.mean():.2f}'
        )
        for attention in attentions
        for item in attention.maps
        if item.label.startswith('gate')
    ]
    if not maps:
        raise ValueError('no layer has a gate: those of LESA, variant dynamic, do')
    notes = [
        '0 is local alone, 1 the most of the context',
        'means over channels; above each map, over pixels',
    ]
    gates = Attention('gate w of every layer', 'LESA2d', notes, maps)
    return attention_sheet(image, gates, warning=warning)


def _write_head(figure: Figure, lines: list[str], warnings: list[str]) -> None:
    step = 0.24 / figure.get_figheight()
    top = 1 - 0.1 / figure.get_figheight()
    for number, line in enumerate([*lines, *warnings]):
        text = figure.text(0.012, top - number * step, line, va='top', fontsize=9)
        if number == 0:
            text.set(fontsize=11, fontweight='bold')
        elif number >= len(lines):
            text.set(color=WARNING_COLOUR, fontweight='bold')


def _shortened(name: str, letters: int) -> str:
    return name if len(name) <= letters else '…' + name[1 - letters :]


def _draw_map(figure: Figure, axes: Axes, grey: np.ndarray, item: AttentionMap) -> None:
    height, width = grey.shape
    low, high = item.limits or (np.nanmin(item.values), np.nanmax(item.values))
    if item.signed:
        high = max(abs(low), abs(high))
        low = -high
    if low == high:  # a flat map still needs a scale
        low, high = low - 0.5 * abs(low) - 1e-12, high + 0.5 * abs(high) + 1e-12
    axes.imshow(grey, cmap='gray', vmin=-80, vmax=335)  # pale, so that colours show
    drawn = axes.imshow(
        item.values,
        cmap=SIGNED if item.signed else SEQUENTIAL,
        vmin=low,
        vmax=high,
        alpha=OPACITY,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation='nearest',
    )
    axes.set_title(item.label, fontsize=9)
    if item.point:
        _mark(axes, grey, item.point)
    ticks = [low, 0, high] if item.signed else [low, high]
    bar = _add_scale(figure, axes, drawn, ticks, _numbers(ticks))
    # Inside the bar's ends, so that neighbours do not meet.
    first, *_, last = bar.ax.get_xticklabels()
    first.set_ha('left')
    last.set_ha('right')


def _add_scale(
    figure: Figure,
    axes: Axes,
    drawn: ScalarMappable,
    ticks: list[float],
    labels: list[str],
) -> Colorbar:
    bar = figure.colorbar(
        drawn, ax=axes, location='bottom', shrink=0.85, aspect=28, pad=0.03
    )
    bar.set_ticks(ticks, labels=labels)
    bar.ax.tick_params(labelsize=8, length=2)
    return bar


def _numbers(values: Sequence[float]) -> list[str]:
    """Writes numbers as short as they can be told apart."""
    for digits in range(3, 8):
        texts = [f'{value:.{digits}g}' for value in values]
        if len(set(texts)) == len(texts):
            break
    return texts


def _mark(axes: Axes, image: np.ndarray, point: Point, name: str = '') -> None:
    x, y = point[0] * image.shape[1] - 0.5, point[1] * image.shape[0] - 0.5
    axes.plot(x, y, '+', color='black', markersize=11, markeredgewidth=4)
    axes.plot(x, y, '+', color='white', markersize=9, markeredgewidth=1.8)
    if name:
        axes.annotate(
            name,
            (x, y),
            xytext=(6, 6),
            textcoords='offset points',
            color='white',
            fontweight='bold',
            path_effects=[withStroke(linewidth=2.5, foreground='black')],
            annotation_clip=False,
        )
