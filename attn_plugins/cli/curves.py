"""Draws loss, learning rate and metrics of one or more runs in one figure.

python -m attn_plugins curves work_dirs/eanet_r18_demo
python -m attn_plugins curves work_dirs/eanet work_dirs/fcn --keys loss mIoU mAcc
python -m attn_plugins curves work_dirs/eanet --list

It reads the log that mmengine writes in any case. For TensorBoard, one line in the
config has it written as well (pip install tensorboard):

    visualizer = dict(vis_backends=[dict(type='LocalVisBackend'),
                                    dict(type='TensorboardVisBackend')])
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..mm.apis.launch import LaunchError
from ..mm.apis.prediction import writable_folder
from ..visualization import main_metrics, read_run, training_curves

KINDS = ('.pdf', '.png', '.svg')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work folder')
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        help='scalars to draw; loss, lr and the main metrics if not given',
    )
    parser.add_argument(
        '--list', action='store_true', help='list the scalars, and stop'
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='.png, .pdf or .svg; curves.png in the first work folder if not given',
    )
    return parser.parse_args(argv)


def run_names(folders: Sequence[str]) -> list[str]:
    """Names runs after their folders, by as much of the path as tells them apart."""
    paths = [Path(folder).resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        names = [os.path.join(*path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise LaunchError('the same work folder is named twice')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    out = Path(args.out or os.path.join(args.work_dirs[0], 'curves.png'))
    if out.suffix.lower() not in KINDS:
        raise LaunchError(f'--out must end in {", ".join(KINDS)}, got {out}')
    names = run_names(args.work_dirs)
    try:
        runs = dict(zip(names, map(read_run, args.work_dirs), strict=True))
    except ValueError as error:
        raise LaunchError(str(error)) from None
    logged = dict.fromkeys(
        key for records in runs.values() for record in records for key in record
    )
    if args.list:
        print('\n'.join(logged))
        return
    keys = args.keys or ['loss', 'lr', *main_metrics(runs.values())]
    for key in keys:
        if key not in logged:
            raise LaunchError(
                f'no run has logged {key!r}; the scalars are: {", ".join(logged)}'
            )
    writable_folder(out.parent)
    training_curves(runs, keys).savefig(out, dpi=120)
    print(f'wrote {out}')
