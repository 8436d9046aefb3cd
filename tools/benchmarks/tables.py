"""Rows of measurements as CSV, Markdown and plots, all by pandas."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

KERNEL_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')
DOES_NOT_FIT = 'does not fit'
MACHINE = ('torch', 'threads', 'hardware', 'commit')

Row = dict[str, object]


def environment(device: torch.device) -> Row:
    """Names what a number depends on, besides the code."""
    hardware = f'{os.cpu_count()} cores of {_cpu_name()}'
    if os.environ.get('THP_MEM_ALLOC_ENABLE') == '1' and _has_large_pages():
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
    return KERNEL_PAGES.is_file() and '[never]' not in KERNEL_PAGES.read_text()


def _cpu_name() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if 'model name' in line]
    return names[0] if names else 'an unknown CPU'


def write_csv(rows: Sequence[Row], path: Path, columns: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lays out a Markdown table whose first column is text and the others numbers."""
    table = pd.DataFrame(rows, columns=header).astype(str)
    align = ('left', *['right'] * (len(header) - 1))
    return table.to_markdown(index=False, disable_numparse=True, colalign=align)


def summary(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Tabulates some columns, of each candidate on each map."""
    body = [
        [f'{row["method"]}, {row["impl"]}', f'{row["H"]} x {row["W"]}']
        + [row.get(column, '') for column in columns]
        for row in rows
    ]
    return markdown(['', 'map', *columns], body)


def plot(rows: Sequence[Row], panels: Mapping[tuple[str, str], str]) -> Figure:
    """Draws columns against the number of pixels, a line for each candidate.

    Args:
        rows: The rows of the CSV.
        panels: Title of each panel, by mode and column.
    """
    table = pd.DataFrame(rows)
    table['pixels'] = table['H'] * table['W']
    table['name'] = table['method'] + ', ' + table['impl']
    figure = Figure(figsize=(13, 4.2), layout='constrained')
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((mode, column), title) in zip(grid, panels.items(), strict=True):
        part = table[table['mode'] == mode].copy()
        part[column] = pd.to_numeric(part[column], errors='coerce')
        lines = part.pivot_table(column, 'pixels', 'name')
        # All of them in every panel, so that each keeps its colour.
        lines = lines.reindex(columns=table['name'].unique())
        style = dict(loglog=True, marker='.', colormap='tab20', legend=False)
        lines.plot(ax=axes, title=title, **style)
        axes.grid(alpha=0.3)
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc='outside lower center', ncols=5)
    return figure
