"""Time and memory of attention layers and models beside what they replace.

    python tools/benchmark.py external --out docs/benchmarks
    python tools/benchmark.py external --sizes 64x64 97x129 --dtype bfloat16
    python tools/benchmark.py lesa              # beside the released formulation
    python tools/benchmark.py lesa --models     # LESA-ResNet-50 beside ResNet-50
    python tools/benchmark.py gsa               # beside convolution, axial, non-local
    python tools/benchmark.py gsa --models      # GSA-ResNet-50 beside ResNet-50
    python tools/benchmark.py models            # EA configs, their stock bases

All candidates take turns within one run, so that a drift of the machine hits all of
them. Peak memory is what torch's allocator held above what it held before the call: the
input and the weights are not in it. "Kept" is what stays for backward, without the
parameters, the input and the output of the layer. That the candidates compute the same
is a test (tests/tools/test_benchmark.py).
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.measure import measure
from benchmarks.tables import Row, environment, plot, summary, write_csv


def parse_size(text: str) -> tuple[int, int]:
    """Reads ``HxW``.

    Raises:
        argparse.ArgumentTypeError: If it is not that, or a side is 0.
    """
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise argparse.ArgumentTypeError(
            f'a size must be HxW, e.g. 97x129, got {text!r}'
        )
    return int(height), int(width)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('command', choices=('external', 'lesa', 'gsa', 'models'))
    parser.add_argument(
        '--models', action='store_true', help='backbones of lesa or gsa, not the layer'
    )
    parser.add_argument(
        '--sizes', type=parse_size, nargs='+', metavar='HxW', help='of maps or images'
    )
    parser.add_argument('--channels', type=int, help='of the maps')
    parser.add_argument(
        '--methods', nargs='+', help='only these of external, e.g. "self-attention"'
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32'
    )
    parser.add_argument(
        '--seconds', type=float, default=2, help='time spent on each candidate; 2'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    # What mm says while it builds is nothing that a reader could do anything about.
    warnings.filterwarnings('ignore')
    stem = f'{args.command}_models' if args.models else args.command
    # Only this one: a layer's benchmark needs torch, not all of mm.
    command = importlib.import_module(f'benchmarks.{stem}')
    if args.command == 'models':
        command.run(args)
        return
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    known = environment(device) | dict(dtype=args.dtype)
    sizes = args.sizes or [parse_size(size) for size in command.SIZES]
    path = args.out / f'{stem}.csv'
    rows: list[Row] = []
    for case in command.cases(args, sizes):
        height, width = case.shape[2:]
        print(*case.shape[1:], case.mode, flush=True)
        x = torch.randn(case.shape, device=device, dtype=dtype)
        training = case.mode == 'training'
        found = measure(case.candidates, x, training, args.seconds, case.baseline)
        for row, facts in zip(found, case.facts, strict=True):
            row |= known | facts | dict(mode=case.mode, H=height, W=width)
        rows += found
        write_csv(rows, path, command.COLUMNS)
    shown = ('mode', 'ms_median', 'ms_min', case.baseline[1], 'peak_mb', 'kept_mb')
    print(summary(rows, shown))
    if hasattr(command, 'PANELS'):
        drawn = [row for row in rows if row.get('sweep', 'fixed') == 'fixed']
        plot(drawn, command.PANELS).savefig(path.with_suffix('.png'), dpi=110)
    if hasattr(command, 'finish'):
        command.finish(args, rows, known)
    print(f'wrote {path}')


if __name__ == '__main__':
    main()
