"""Curves of training, from the log that mmengine itself writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
from cycler import Cycler, cycler
from matplotlib.figure import Figure

Record = Mapping[str, float]

TITLES = {
    'loss': 'training loss',
    'lr': 'learning rate',
    'mIoU': 'validation mIoU (%)',
    'mAcc': 'validation class accuracy (%)',
    'aAcc': 'validation pixel accuracy (%)',
    'coco/bbox_mAP': 'validation box AP',
    'coco/segm_mAP': 'validation mask AP',
    'pascal_voc/mAP': 'validation mAP',
    'accuracy/top1': 'validation top-1 (%)',
}
PER_CENT = ('mIoU', 'mAcc', 'aAcc', 'accuracy/top1')
# Drawn only where they are asked for.
SECONDARY = ('mAcc', 'aAcc')
# What a validation record holds beside metrics.
_BESIDE_METRICS = ('data_time', 'epoch', 'iter', 'step', 'time')
# Chosen for colour blindness; a run keeps its colour in every panel.
COLOURS = matplotlib.color_sequences['petroff10']


def read_scalars(path: str | Path) -> list[Record]:
    """Reads mmengine's `vis_data/scalars.json`: one JSON object a line.

    Training and validation share the file; a record holds only what was logged
    together, under `step` (iteration or epoch, as the run counts). A last line that was
    not written to its end, as of a process that was killed, is left out.

    Raises:
        ValueError: A line is no JSON, or the file holds no record at all.
    """
    records = []
    lines = Path(path).read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith('\n'):
                break
            raise ValueError(f'{path}, line {number}, is not JSON: {error}') from error
    if not records:
        raise ValueError(f'{path} is empty: the run has logged nothing yet')
    return records


def read_run(work_dir: str | Path) -> list[Record]:
    """Reads all logs of a work folder as the log of one run.

    Every start of a run has a folder of its own. One that resumes may start before the
    last step of the one before: what is logged later counts.

    Raises:
        ValueError: If there is no log, or as in :func:`read_scalars`.
    """
    # A folder of each start, named after its time.
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise ValueError(
            f'{work_dir} holds no log (TIME/vis_data/scalars.json): is it the work '
            'folder of a training run?'
        )
    records: list[Record] = []
    for log in logs:
        later = read_scalars(log)
        if any('loss' in record for record in later):
            # Not by `step`, which may count epochs in validation.
            records = _before(records, later) + later
    if not records:
        raise ValueError(f'{work_dir} has no training in its logs')
    return records


def _before(records: list[Record], later: list[Record]) -> list[Record]:
    """Drops what came after the first training record of a resumed run."""
    start = next(record['step'] for record in later if 'loss' in record)
    kept = []
    for record in records:
        if 'loss' in record and record['step'] >= start:
            break
        kept.append(record)
    return kept


def main_metrics(runs: Iterable[Sequence[Record]]) -> list[str]:
    """Lists the usual figures of merit that runs have logged, or else the first one."""
    found = dict.fromkeys(
        key
        for records in runs
        for record in records
        if 'loss' not in record
        for key, value in record.items()
        if key not in _BESIDE_METRICS and isinstance(value, int | float)
    )
    usual = [key for key in TITLES if key in found and key not in SECONDARY]
    return usual or list(found)[:1]


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
    columns = min(len(keys), 4)
    rows = math.ceil(len(keys) / columns)
    # The legend stands below, a line for each run.
    height = 2.8 * rows + 0.2 * len(runs) * (len(runs) > 1)
    figure = Figure(figsize=(3.4 * columns, height), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    for axes, key in zip(panels, keys, strict=False):
        axes.set_prop_cycle(_styles())
        for name, records in runs.items():
            steps, values = series(records, key)
            # A few validations are points with lines between, not a curve.
            axes.plot(steps, values, marker='o' if len(steps) < 15 else '', label=name)
        axes.set(title=TITLES.get(key, key), xlabel=_unit(runs.values(), key))
        axes.grid(alpha=0.3)
        if key in PER_CENT:
            axes.set_ylim(0, 100)
        if not any(key in record for records in runs.values() for record in records):
            axes.text(0.5, 0.5, 'not logged', ha='center', transform=axes.transAxes)
    if len(runs) > 1:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc='outside lower center', fontsize=9)
    return figure


def _styles() -> Cycler:
    """A colour a run; after ten runs the colours come again with other dashes."""
    return cycler(linestyle=('-', '--', ':')) * cycler(color=COLOURS)


def _unit(runs: Iterable[Sequence[Record]], key: str) -> str:
    """What `step` counts for a scalar: in epoch-based runs, validation has epochs."""
    units = {
        'epoch' if by_epoch and 'iter' not in record else 'iteration'
        for records in runs
        for by_epoch in [any('epoch' in r and 'iter' in r for r in records)]
        for record in records
        if key in record
    }
    return ' or '.join(sorted(units)) or 'iteration'
