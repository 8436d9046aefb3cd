"""Time, memory and FLOPs of global self-attention beside its peers, parity first.

The layer and its axial alternative are compared with the loops that the paper prints,
in float64: values, gradients, running statistics. If they differ, nothing is measured.
Then they take turns with a 3x3 convolution and a non-local block: on maps of growing
size and equal channels, to see how the cost grows, and on the maps of a ResNet's
stages, whose channels double as their sides halve.

FLOPs are counted by torch's counter, for inference: products and convolutions,
multiplications and additions apart, as in the paper.

With --models, GSA-ResNet-50 beside ResNet-50, whole and stage by stage.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from complexity import count
from mmcv.cnn import NonLocal2d
from torch import Tensor, nn

from attn_plugins.functional import reference
from attn_plugins.modules import GlobalSelfAttention
from benchmarks.measure import Candidate, measure, n_by_n
from benchmarks.options import add_common_options, parse_size, parse_sizes
from benchmarks.parity import check_same, draw_norms
from benchmarks.report import (
    DOES_NOT_FIT,
    PEAK_PANELS,
    Row,
    environment,
    plot,
    rows_of,
    summaries,
    write_csv,
)
from benchmarks.tables import markdown

SIZES = ('7x7', '14x14', '28x28', '56x56', '80x80', '96x96', '128x128')
STAGES = ('56x56', '28x28', '14x14', '7x7')
GROWTH = 1.5
RATIO = 'ratio_to_convolution'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'sweep', 'channels', 'H', 'W',
    'mflops', 'ms_median', 'ms_min', 'repeats', RATIO, 'peak_mb', 'kept_mb', 'note',
    'torch', 'threads', 'hardware', 'commit',
)  # fmt: skip


class PrintedGSA(GlobalSelfAttention):
    """The layer from the loops of the appendix; for maps of the tables' size."""

    def forward(self, x: Tensor) -> Tensor:
        q, v, k = (
            F.conv2d(x, weight).unflatten(1, (self.num_heads, -1)).movedim(2, -1)
            for weight in self.qvk.weight.chunk(3)
        )  # (B, h, H, W, D)
        if self.axial_content:
            columns = reference.gsa_axial_columns(q, k, v, self.rel_h)
            columns = self.norm(_to_map(columns)).unflatten(1, (self.num_heads, -1))
            columns = columns.movedim(2, -1)
            return _to_map(reference.gsa_axial_rows(q, k, columns, self.rel_w))
        columns = reference.gsa_columns(q, v, self.rel_h)
        columns = self.norm(_to_map(columns)).unflatten(1, (self.num_heads, -1))
        columns = columns.movedim(2, -1)
        rows = reference.gsa_rows(q, columns, self.rel_w)
        return _to_map(reference.gsa_content(q, k, v) + rows)


def _to_map(x: Tensor) -> Tensor:
    """``(B, h, H, W, D)`` to ``(B, C, H, W)``."""
    return x.movedim(-1, 2).flatten(1, 2)


def check_parity() -> None:
    """Compares the layer and its axial alternative with the loops, in float64.

    Raises:
        ParityError: If outputs, gradients or running statistics differ.
    """
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    for name, axial in (('GSA', False), ('axial attention', True)):
        options = dict(num_heads=2, rel_pos_size=x.shape[2:], axial_content=axial)
        printed = PrintedGSA(4, **options)
        draw_norms(printed)
        layer = GlobalSelfAttention(4, **options)
        layer.load_state_dict(printed.state_dict())
        check_same(name, {'the loops': printed, 'this package': layer}, x)


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


def _mflops(candidate: Candidate, shape: tuple[int, ...]) -> float:
    macs = count(lambda: candidate.build(shape[1]), shape).macs
    return round(2e-6 * macs, 3)


def growth(
    rows: Sequence[Row], name: tuple[str, str], mode: str, cost: str
) -> tuple[float, float]:
    """Fits ``cost ~ N ** exponent`` of a candidate over the maps of equal channels.

    Args:
        rows: The CSV.
        name: Method and form of the candidate.
        mode: 'inference' or 'training'.
        cost: Column of the CSV.

    Returns:
        The exponent over all maps, and over the two largest, where constants count for
        least; NaN if there are fewer than two maps, or no cost to speak of.
    """
    points = sorted(
        (row['H'] * row['W'], row[cost])
        for row in rows
        if (row['method'], row['impl'], row['mode']) == (*name, mode)
        and row['sweep'] == 'fixed'
        and row['ms_median'] != DOES_NOT_FIT
    )
    pixels, costs = np.array(points, dtype=float).reshape(-1, 2).T
    if len(set(pixels[-2:])) < 2 or min(costs) <= 0:
        return math.nan, math.nan
    return tuple(
        float(np.polyfit(np.log(pixels[part]), np.log(costs[part]), 1)[0])
        for part in (slice(None), slice(-2, None))
    )


def growth_table(rows: Sequence[Row]) -> str:
    """Tabulates the exponents."""
    costs = {'ms_median': 'time', 'peak_mb': 'peak memory', 'mflops': 'FLOPs'}
    body = []
    for name in dict.fromkeys((row['method'], row['impl']) for row in rows):
        for mode in ('inference', 'training'):
            found = (growth(rows, name, mode, cost) for cost in costs)
            cells = (f'{total:.2f} ({last:.2f})' for total, last in found)
            body.append([', '.join(name), mode, *cells])
    return '\n'.join(
        (
            markdown(('exponent of N', 'mode', *costs.values()), body),
            '',
            'Over all maps of equal channels; in parentheses over the two largest. '
            f'Asked of GSA: at most {GROWTH}. FLOPs are those of inference.',
        )
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--models', action='store_true', help='backbones instead of the layer'
    )
    parser.add_argument(
        '--sizes',
        type=parse_size,
        nargs='+',
        metavar='HxW',
        help=f'of maps of equal channels; default: {" ".join(SIZES)}. With --models '
        'of images; default: 224x224',
    )
    parser.add_argument(
        '--stages',
        type=parse_size,
        nargs='*',
        metavar='HxW',
        default=parse_sizes(STAGES),
        help='of maps whose channels double from each to the next',
    )
    parser.add_argument('--channels', type=int, default=64, help='of maps; default: 64')
    add_common_options(parser)


def run(args: argparse.Namespace) -> None:
    check_parity()
    if args.models:
        from benchmarks import gsa_models  # mmdet, which the layer does without

        gsa_models.run(args)
        return
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    known = environment(device) | dict(dtype=args.dtype)
    cases = [
        ('fixed', args.channels, size) for size in args.sizes or parse_sizes(SIZES)
    ]
    cases += [
        ('stages', args.channels * 2**stage, size)
        for stage, size in enumerate(args.stages)
    ]
    rows: list[Row] = []
    for sweep, channels, size in cases:
        chosen = candidates(size)
        shape = (1, channels, *size)
        mflops = {c.name: _mflops(c, shape) for c in chosen}
        for mode in ('inference', 'training'):
            print('{} x {} x {}, {}'.format(channels, *size, mode), flush=True)
            x = torch.randn(shape, device=device, dtype=dtype)
            measured = measure(chosen, x, mode == 'training', args.seconds)
            place = dict(
                mode=mode, sweep=sweep, channels=channels, H=size[0], W=size[1]
            )
            new = rows_of(chosen, measured, known | place, CONVOLUTION, RATIO)
            for row, candidate in zip(new, chosen, strict=True):
                row['mflops'] = mflops[candidate.name]
            rows += new
            write_csv(rows, args.out / 'gsa.csv', COLUMNS)
    fixed = [row for row in rows if row['sweep'] == 'fixed']
    figure = plot(fixed, chosen[1], PEAK_PANELS)
    figure.savefig(args.out / 'gsa.png', dpi=110)
    for sweep in ('fixed', 'stages'):
        print(f'\n{sweep} channels\n')
        print(summaries([row for row in rows if row['sweep'] == sweep], RATIO))
    print()
    print(growth_table(rows))
    print(f'wrote {args.out / "gsa.csv"} and {args.out / "gsa.png"}')
