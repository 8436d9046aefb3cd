"""Attention maps of the models of the frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ...visualization import (
    Attention,
    AttentionRecorder,
    attention_sheet,
    describe,
    gate_overview,
)
from ...visualization.attention import Point
from .launch import LaunchError
from .prediction import Predictor, point_in_input


class ImageAttention(NamedTuple):
    """What all layers of a model see in one image.

    Attributes:
        image: What the network got, RGB ``(H, W, 3)``.
        points: The points whose attention is shown.
        layers: The layers' maps, in the order of the model.
        notes: Lines on what was done differently from testing.
    """

    image: np.ndarray
    points: list[Point]
    layers: list[Attention]
    notes: list[str]


def attention_of(
    predictor: Predictor,
    image: np.ndarray,
    points: Sequence[Sequence[float]] | None = None,
    *,
    layers: Sequence[str] | None = None,
    slots: Sequence[int] | None = None,
    num_slots: int = 7,
    grid: tuple[int, int] | None = None,
) -> ImageAttention:
    """Runs a model on an image, and makes the maps of its attention layers.

    Args:
        predictor: The model.
        image: BGR ``(H, W, 3)``, 8-bit.
        points: Pixels ``(x, y)`` of the image; None for its centre.
        layers: Names of the layers; None for all.
        slots: As in :func:`~attn_plugins.visualization.describe`.
        num_slots: As there.
        grid: As there.

    Raises:
        LaunchError: If a layer or a slot does not exist, a point is outside, or a grid
            is needed.
    """
    height, width = image.shape[:2]
    points = points or [(width // 2, height // 2)]
    notes = []
    try:
        recorder = AttentionRecorder(predictor.model, layers)
        if predictor.attend_to_whole_images():
            notes.append(
                'The config tests crops of an image one by one; here it is taken whole.'
            )
        with recorder:
            sample = predictor.predict(image)
        size = recorder.image.shape[1:]
        found = [point_in_input(point, sample, size) for point in points]
        attentions = [
            describe(
                recording,
                found,
                slots=slots,
                num_slots=num_slots,
                grid=grid,
                image_size=size,
                batch=recorder.batch,
            )
            for recording in recorder.recordings
        ]
    except LaunchError:
        raise
    except ValueError as error:
        raise LaunchError(str(error)) from None
    if not attentions:
        raise LaunchError(
            f'the model did not run {", ".join(recorder.layers)} on this image'
        )
    return ImageAttention(predictor.shown(recorder.image), found, attentions, notes)


def draw_sheets(
    attention: ImageAttention, warning: str = ''
) -> Iterator[tuple[str, Figure, str]]:
    """Draws a sheet for each layer, after one of all gates where there are several.

    Args:
        attention: The maps.
        warning: As in :func:`~attn_plugins.visualization.attention_sheet`.

    Yields:
        Name, figure, and a line that says what it shows.
    """
    gated = [
        layer
        for layer in attention.layers
        if any(item.label.startswith('gate') for item in layer.maps)
    ]
    if len(gated) > 1:
        figure = gate_overview(attention.image, gated, warning=warning)
        yield 'gates', figure, f'gate w of {len(gated)} layers'
    for layer in attention.layers:
        of_points = any(item.point for item in layer.maps)
        points = attention.points if of_points else ()
        figure = attention_sheet(attention.image, layer, points, warning=warning)
        low = min(np.nanmin(item.values) for item in layer.maps)
        high = max(np.nanmax(item.values) for item in layer.maps)
        description = f'{layer.kind}; {"; ".join(layer.notes)}; values from '
        yield layer.name, figure, description + f'{low:.3g} to {high:.3g}'
