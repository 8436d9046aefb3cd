"""Global self-attention beside a 3x3 convolution, axial attention, a non-local block.

On maps of growing size and equal channels, to see how the cost grows, and on the maps
of a ResNet's stages, whose channels double as their sides halve. FLOPs are counted by
torch's counter, for inference: multiplications and additions apart, as in the paper.
"""

import argparse
import math
from collections.abc import Iterator, Sequence

import numpy as np
from complexity import count
from mmcv.cnn import NonLocal2d
from torch import nn

from attn_plugins.modules import GlobalSelfAttention
from benchmarks.lesa import PANELS as PANELS
from benchmarks.measure import Candidate, Case, n_by_n
from benchmarks.tables import DOES_NOT_FIT, MACHINE, Row, markdown

SIZES = ('7x7', '14x14', '28x28', '56x56', '80x80', '96x96', '128x128')
STAGES = ((56, 56), (28, 28), (14, 14), (7, 7))
RATIO = 'ratio_to_convolution'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'sweep', 'channels', 'H', 'W',
    'mflops', 'ms_median', 'ms_min', 'repeats', RATIO, 'peak_mb', 'kept_mb', 'note',
    *MACHINE,
)  # fmt: skip
CONVOLUTION = Candidate(
    'convolution', '3x3', lambda c: nn.Conv2d(c, c, 3, padding=1, bias=False)
)


def candidates(size: tuple[int, int]) -> tuple[Candidate, ...]:
    """The layer and what it is measured beside, for maps of one size."""

    def gsa(channels: int, **options) -> nn.Module:
        return GlobalSelfAttention(channels, rel_pos_size=size, **options)

    return (
        CONVOLUTION,
        Candidate('GSA', 'this package', gsa),
        Candidate('axial', 'this package', lambda c: gsa(c, axial_content=True)),
        Candidate('non-local', 'mm', NonLocal2d, n_by_n(2, 3)),
    )


def cases(args: argparse.Namespace, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    channels = args.channels or 64
    maps = [('fixed', channels, size) for size in sizes]
    maps += [('stages', channels << stage, size) for stage, size in enumerate(STAGES)]
    for sweep, width, size in maps:
        chosen = candidates(size)
        shape = (1, width, *size)
        facts = [
            dict(sweep=sweep, channels=width, mflops=_mflops(candidate, shape))
            for candidate in chosen
        ]
        for mode in ('inference', 'training'):
            yield Case(chosen, shape, mode, (CONVOLUTION, RATIO), facts)


def _mflops(candidate: Candidate, shape: tuple[int, ...]) -> float:
    macs = count(lambda: candidate.build(shape[1]), shape).macs
    return round(2e-6 * macs, 3)


def growth(rows: Sequence[Row], mode: str, cost: str) -> tuple[float, float]:
    """Fits ``cost ~ N ** exponent`` over maps of equal channels.

    Args:
        rows: The rows of one candidate.
        mode: 'inference' or 'training'.
        cost: Column of the CSV.

    Returns:
        The exponent over all maps, and over the two largest, where constants count for
        least; NaN if there are fewer than two maps, or no cost to speak of.
    """
    points = sorted(
        (row['H'] * row['W'], row[cost])
        for row in rows
        if (row['mode'], row['sweep']) == (mode, 'fixed')
        and row['ms_median'] != DOES_NOT_FIT
    )
    pixels, costs = np.array(points, dtype=float).reshape(-1, 2).T
    if len(set(pixels[-2:])) < 2 or min(costs) <= 0:
        return math.nan, math.nan
    return tuple(
        float(np.polyfit(np.log(pixels[part]), np.log(costs[part]), 1)[0])
        for part in (slice(None), slice(-2, None))
    )


def finish(args: argparse.Namespace, rows: Sequence[Row], known: Row) -> None:
    """Tabulates the exponents."""
    costs = {'ms_median': 'time', 'peak_mb': 'peak memory', 'mflops': 'FLOPs'}
    body = []
    for method in dict.fromkeys(row['method'] for row in rows):
        mine = [row for row in rows if row['method'] == method]
        for mode in ('inference', 'training'):
            found = (growth(mine, mode, cost) for cost in costs)
            cells = (f'{total:.2f} ({last:.2f})' for total, last in found)
            body.append([method, mode, *cells])
    print(markdown(('exponent of N', 'mode', *costs.values()), body))
    print('Over all maps of equal channels; in parentheses over the two largest.')
