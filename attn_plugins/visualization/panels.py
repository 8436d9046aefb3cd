"""What a segmentor sees, what it should say and what it says, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

WARNING_COLOUR = '#b34700'
# Narrower pictures leave no room for a caption.
NARROWEST = 320
UNLABELLED = 255
UNLABELLED_COLOUR = (255, 255, 255)

Colour = Sequence[int]


class Sample(NamedTuple):
    """One row of panels.

    Attributes:
        image: RGB picture (H, W, 3), 8-bit.
        truth: Class indices (H, W), `UNLABELLED` where there is none.
        prediction: Class indices (H, W).
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


def colourise(label: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Turns class indices (H, W) into an RGB picture (H, W, 3).

    What the palette has no colour for, such as `UNLABELLED`, is white.
    """
    # The last row is that of the index -1.
    table = np.tile(np.uint8(UNLABELLED_COLOUR), (max(len(palette), 256) + 1, 1))
    table[: len(palette)] = palette
    return table[label]


def _classes_of(label: np.ndarray, count: int, *, truth: bool = False) -> np.ndarray:
    """Gives what is unlabelled the index -1.

    A prediction always says something: of more than 255 classes, one has the index
    `UNLABELLED`.
    """
    label = label.astype(int)
    return np.where((label == UNLABELLED) & (truth or count <= UNLABELLED), -1, label)


def prediction_panels(
    samples: Sequence[Sample],
    classes: Sequence[str],
    palette: Sequence[Colour],
    width: float = 9.0,
) -> Figure:
    """Draws input, truth and prediction, one sample a row, above a legend.

    Colours alone do not tell many classes apart, for anyone, so large regions also
    carry the name of their class.

    Args:
        samples: The rows.
        classes: Names of the classes, by index.
        palette: RGB colours of the classes, by index, each 0 to 255.
        width: Width of the figure in inches.
    """
    count = len(classes)
    samples = [
        Sample(
            sample.image,
            _classes_of(sample.truth, count, truth=True),
            _classes_of(sample.prediction, count),
        )
        for sample in samples
    ]
    aspects = [sample.image.shape[0] / sample.image.shape[1] for sample in samples]
    figure = Figure(
        figsize=(width, width / 3 * sum(aspects) + 0.9), layout='constrained'
    )
    grid = figure.subplots(
        len(samples), 3, squeeze=False, gridspec_kw={'height_ratios': aspects}
    )
    for axes, title in zip(grid[0], ('input', 'truth', 'prediction'), strict=True):
        axes.set_title(title)
    for row, sample in zip(grid, samples, strict=True):
        row[0].imshow(sample.image)
        for axes, label in zip(row[1:], sample[1:], strict=True):
            axes.imshow(colourise(label, palette), interpolation='nearest')
            _name_regions(axes, label, classes)
        for axes in row:
            axes.set_axis_off()
    figure.legend(
        handles=_legend(samples, classes, palette),
        loc='outside lower center',
        ncols=8,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )
    return figure


def overlay(
    image: np.ndarray,
    label: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Colour],
    opacity: float = 0.6,
) -> Figure:
    """Paints class indices over their picture, with names and a legend.

    The figure is as wide as the picture is in pixels, and 640 at least, so that names
    have room. In larger pictures they are larger.

    Args:
        image: RGB picture (H, W, 3), 8-bit.
        label: Class indices (H, W), of a prediction.
        classes: Names of the classes, by index.
        palette: RGB colours of the classes, by index, each 0 to 255.
        opacity: How much of the picture the colours hide.
    """
    label = _classes_of(label, len(classes))
    height, width = label.shape
    dots = max(width, 640)
    inches = 6.4 * (dots / 640) ** 0.5
    legend = _legend([Sample(label, label, label)], classes, palette)
    # Letters of 8 points are about 0.07 inches wide.
    longest = max(len(patch.get_label()) for patch in legend)
    columns = max(1, int(inches / (0.07 * longest + 0.5)))
    below = 0.19 * -(-len(legend) // columns) + 0.12
    figure = Figure(
        figsize=(inches, inches * height / width + below), dpi=dots / inches
    )
    share = below / figure.get_figheight()
    axes = figure.add_axes((0, share, 1, 1 - share))
    colours = colourise(label, palette)
    axes.imshow(np.uint8((1 - opacity) * image + opacity * colours))
    _name_regions(axes, label, classes)
    axes.set_axis_off()
    figure.legend(
        handles=legend,
        loc='lower center',
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.0,
        borderaxespad=0.1,
    )
    return figure


def caption(width: int, lines: Sequence[str] = (), warning: str = '') -> Figure:
    """Writes lines on a strip that is to stand below a picture.

    Letters grow with the picture, more slowly than it.

    Args:
        width: Width of the strip in pixels, at least :data:`NARROWEST`.
        lines: The lines; long ones are wrapped.
        warning: A line that nobody may miss, below them.
    """
    dots = 100 * max(width / 640, 1) ** 0.5
    inches = width / dots
    # Letters of 8 points are about 0.07 inches wide, bold ones 0.08.
    rows = [
        (row, 'black', 'normal')
        for line in lines
        for row in textwrap.wrap(line, int((inches - 0.1) / 0.07))
    ]
    rows += [
        (row, WARNING_COLOUR, 'bold')
        for row in textwrap.wrap(warning, int((inches - 0.1) / 0.08))
    ]
    step = 0.16
    height = round((step * len(rows) + 0.08) * dots)
    # Half a pixel more, as sizes are rounded down.
    figure = Figure(figsize=((width + 0.5) / dots, (height + 0.5) / dots), dpi=dots)
    for number, (row, colour, weight) in enumerate(rows):
        top = 1 - (0.05 + number * step) * dots / height
        figure.text(
            0.05 / inches, top, row, va='top', size=8, color=colour, weight=weight
        )
    return figure


def captioned(
    image: np.ndarray, lines: Sequence[str] = (), warning: str = ''
) -> np.ndarray:
    """Puts a strip with lines below a picture.

    A picture of less than :data:`NARROWEST` pixels gets white beside it.

    Args:
        image: RGB ``(H, W, 3)``, 8-bit.
        lines: As in :func:`caption`.
        warning: As there.

    Returns:
        RGB, 8-bit; the picture is in its upper left corner.
    """
    missing = max(NARROWEST - image.shape[1], 0)
    image = np.pad(image, ((0, 0), (0, missing), (0, 0)), constant_values=255)
    strip = rendered(caption(image.shape[1], lines, warning))
    return np.concatenate([image, strip])


def rendered(figure: Figure) -> np.ndarray:
    """Renders a figure to an RGB picture (H, W, 3), 8-bit."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _name_regions(axes: Axes, label: np.ndarray, classes: Sequence[str]) -> None:
    """Writes each class's name where its region has most room, if there is enough."""
    outline = [withStroke(linewidth=2, foreground='white')]
    # A name is wide: in a picture this much narrower it needs as much room both ways.
    squeeze = 4
    for index in np.setdiff1d(label, [-1]):
        inside = np.pad(label[:, ::squeeze] == index, 1).astype(np.uint8)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        _, room, _, (x, y) = cv2.minMaxLoc(depth)
        if room > 0.03 * label.shape[0]:
            x, y = squeeze * (x - 1), y - 1
            text = axes.text(x, y, classes[index], path_effects=outline)
            text.set(ha='center', va='center', fontsize=8)


def _legend(
    samples: Sequence[Sample], classes: Sequence[str], palette: Sequence[Colour]
) -> list[Patch]:
    shown = {index for sample in samples for index in np.unique(sample[1:]).tolist()}
    return [
        Patch(
            label='unlabelled' if index == -1 else classes[index],
            facecolor=colourise(index, palette) / 255,
            edgecolor='0.5',
        )
        # What is unlabelled comes last.
        for index in sorted(shown, key=lambda index: (index == -1, index))
    ]
