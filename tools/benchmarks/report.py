"""Measurements as CSV rows, plots and Markdown tables."""

import csv
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from benchmarks.measure import Candidate, Measurement
from benchmarks.tables import markdown

COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'ms_median', 'ms_min',
    'repeats', 'ratio_to_released', 'peak_mb', 'kept_mb', 'note', 'torch', 'threads',
    'hardware', 'commit',
)  # fmt: skip
PANELS = (
    ('inference', 'ms_median', 'inference, ms'),
    ('training', 'ms_median', 'training step, ms'),
    ('inference', 'peak_mb', 'inference, peak MB'),
    ('training', 'kept_mb', 'kept for backward, MB'),
)
PEAK_PANELS = (*PANELS[:3], ('training', 'peak_mb', 'training step, peak MB'))
KERNEL_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')
DOES_NOT_FIT = 'does not fit'

Row = dict[str, object]


def environment(device: torch.device) -> Row:
    """What a number depends on, besides the code."""
    hardware = f'{os.cpu_count()} cores of {_cpu_name()}'
    if _has_large_pages():
        hardware += ', large pages'
    if device.type == 'cuda':
        hardware = torch.cuda.get_device_name(device)
    git = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty']
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout
    return dict(
        device=device.type,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        hardware=hardware,
        commit=commit.strip() or 'unknown',
    )


def _has_large_pages() -> bool:
    """Tells whether torch asks for large pages, and the kernel does not refuse."""
    asked = os.environ.get('THP_MEM_ALLOC_ENABLE') == '1'
    return (
        asked and KERNEL_PAGES.is_file() and '[never]' not in KERNEL_PAGES.read_text()
    )


def _cpu_name() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if 'model name' in line]
    return names[0] if names else 'an unknown CPU'


def rows_of(
    candidates: Sequence[Candidate],
    measured: Mapping[str, Measurement | None],
    known: Row,
    baseline: Candidate,
    ratio: str = 'ratio_to_released',
) -> list[Row]:
    """Makes CSV rows out of the measurements at one size.

    Args:
        candidates: In this order.
        measured: By name.
        known: What all rows have in common.
        baseline: Whose time is 1 in the column ``ratio``.
        ratio: Name of that column.
    """
    base = measured.get(baseline.name)
    rows = []
    for candidate in candidates:
        row = dict(known, method=candidate.method, impl=candidate.impl)
        found = measured[candidate.name]
        if found is None:
            row |= dict(ms_median=DOES_NOT_FIT, note='computed from N x N')
        else:
            median = statistics.median(found.times)
            row |= dict(
                ms_median=round(median, 3),
                ms_min=round(min(found.times), 3),
                repeats=len(found.times),
                peak_mb=round(found.peak / 1e6, 2),
                kept_mb=round(found.kept / 1e6, 2),
            )
            if base is not None:
                row[ratio] = round(median / statistics.median(base.times), 4)
        rows.append(row)
    return rows


def write_csv(
    rows: Sequence[Row], path: Path, columns: Sequence[str] = COLUMNS
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def plot(
    rows: Sequence[Row],
    ours: Candidate,
    panels: Sequence[tuple[str, str, str]] = PANELS,
) -> Figure:
    """Draws columns against the number of pixels, a line per candidate.

    Args:
        rows: The CSV.
        ours: Whose line is bold.
        panels: Mode, column and title of each panel.
    """
    colours = matplotlib.color_sequences['petroff10']
    names = list(dict.fromkeys((row['method'], row['impl']) for row in rows))
    figure = Figure(figsize=(13, 4.2), layout='constrained')
    for axes, (mode, key, title) in zip(
        figure.subplots(1, len(panels)), panels, strict=True
    ):
        for index, name in enumerate(names):
            points = sorted(
                (row['H'] * row['W'], row[key])
                for row in rows
                if (row['method'], row['impl']) == name
                and row['mode'] == mode
                and row['ms_median'] != DOES_NOT_FIT
            )
            axes.plot(
                *zip(*points, strict=True) if points else ([], []),
                label=', '.join(name),
                color=colours[index % len(colours)],
                linestyle='-' if index < len(colours) else '--',
                linewidth=2.5 if name == (ours.method, ours.impl) else 1.2,
                marker='o',
                markersize=3,
            )
        axes.set(title=title, xlabel='pixels', xscale='log', yscale='log')
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc='outside lower center', ncols=5
    )
    return figure


def summary(rows: Sequence[Row], ratio: str = 'ratio_to_released') -> str:
    """Tabulates the largest map."""
    largest = max(row['H'] * row['W'] for row in rows)
    rows = [row for row in rows if row['H'] * row['W'] == largest]
    keys = ('mode', 'ms_median', 'ms_min', ratio, 'peak_mb', 'kept_mb')
    header = (f'{rows[0]["H"]} x {rows[0]["W"]}', *keys)
    body = [
        [f'{row["method"]}, {row["impl"]}', *(str(row.get(key, '')) for key in keys)]
        for row in rows
    ]
    return markdown(header, body)


def summaries(rows: Sequence[Row], ratio: str = 'ratio_to_released') -> str:
    """Tabulates every map, a table each."""
    sizes = dict.fromkeys((row['H'], row['W']) for row in rows)
    return '\n\n'.join(
        summary([row for row in rows if (row['H'], row['W']) == size], ratio)
        for size in sizes
    )
