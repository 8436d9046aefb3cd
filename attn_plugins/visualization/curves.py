"""Curves of training, from the log that mmengine itself writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

Record = Mapping[str, float]

TITLES = {
    'loss': 'training loss',
    'lr': 'learning rate',
    'mIoU': 'validation mIoU (%)',
}
# Chosen for colour blindness; a run keeps its colour in every panel.
COLOURS = matplotlib.color_sequences['petroff10']


def read_scalars(path: str | Path) -> list[Record]:
    """Reads mmengine's `vis_data/scalars.json`: one JSON object a line.

    Training and validation share the file; a record holds only what was logged
    together, under `step` (iteration or epoch, as the run counts).

    Raises:
        ValueError: A line is no JSON, or the file holds no record at all.
    """
    records = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {number}, is not JSON: {error}') from error
    if not records:
        raise ValueError(f'{path} is empty: the run has logged nothing yet')
    return records


def series(records: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    """Picks one scalar out of the records: its steps and its values."""
    found = [(record['step'], record[key]) for record in records if key in record]
    return [step for step, _ in found], [value for _, value in found]


def training_curves(
    runs: Mapping[str, Sequence[Record]],
    keys: Sequence[str] = ('loss', 'lr', 'mIoU'),
) -> Figure:
    """Draws one panel a scalar and in it one curve a run.

    Args:
        runs: Records of each run, by the name that the legend gives it.
        keys: Scalars to draw, as the log names them.
    """
    figure = Figure(figsize=(3.4 * len(keys), 2.8), layout='constrained')
    panels = figure.subplots(1, len(keys), squeeze=False)[0]
    for axes, key in zip(panels, keys, strict=True):
        axes.set_prop_cycle(color=COLOURS)
        for name, records in runs.items():
            steps, values = series(records, key)
            # A few validations are points with lines between, not a curve.
            axes.plot(steps, values, marker='o' if len(steps) < 15 else '', label=name)
        axes.set(title=TITLES.get(key, key), xlabel='iteration')
        axes.grid(alpha=0.3)
        if key == 'mIoU':
            axes.set_ylim(0, 100)
        if not any(key in record for records in runs.values() for record in records):
            axes.text(0.5, 0.5, 'not logged', ha='center', transform=axes.transAxes)
    if len(runs) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center')
    return figure
