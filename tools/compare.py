"""Does attention help? The same schedule with and without it, several seeds each.

    python tools/compare.py camvid --data-root DIR     # segmentation
    python tools/compare.py nuts --data-root DIR       # detection
    python tools/compare.py table                      # what there is

Every run is a process of its own and adds its rows to the CSV file when it ends. Runs
that have a row are not repeated, so that an interrupted comparison goes on when the
command is given again. The schedules, tools/comparison/, are small enough for a CPU.
Time is the CPU time of the training process; memory is its largest resident size.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from benchmarks.tables import Row, environment, markdown
from mmengine.config import Config
from mmengine.runner import Runner

from attn_plugins.mm.apis.launch import check_data, one_line_errors, read_config

HERE = Path(__file__).parent
COLUMNS = (
    'task', 'config', 'model', 'seed', 'metric', 'value', 'params', 'iterations',
    'cpu_s', 'peak_mb', 'device', 'torch', 'threads', 'hardware', 'commit',
)  # fmt: skip
METRICS = {'camvid': ['mIoU'], 'nuts': ['coco/bbox_mAP', 'coco/segm_mAP']}


def external(num_slots: int, normalization: str) -> dict:
    layer = dict(type='ExternalAttention2d', normalization=normalization)
    return dict(decode_head=dict(attn=dict(layer, num_slots=num_slots)))


def self_attention(normalization: str) -> dict:
    layer = dict(type='SelfAttention2d', normalization=normalization)
    return dict(decode_head=dict(attn=layer))


def backbone(name: str) -> dict:
    """Attention in the last two stages."""
    stages = (False, False, True, True)
    return dict(
        backbone=dict(type=name, stage_with_attn=stages, rel_pos_input_size=256)
    )


# What each model changes in the config's `model`.
MODELS: dict[str, dict[str, dict]] = {
    'camvid': {
        'no attention': dict(decode_head=dict(attn=None)),
        'self-attention, softmax': self_attention('softmax'),
        'self-attention, double norm': self_attention('double'),
        'EA, 64 slots, softmax': external(64, 'softmax'),
        'EA, 64 slots, double norm': external(64, 'double'),
        'EA, 8 slots, softmax': external(8, 'softmax'),
        'EA, 8 slots, double norm': external(8, 'double'),
    },
    'nuts': {
        'no attention': {},
        'EA after stage 4': {},  # a list of necks, see build_config
        'LESA in stages 3 and 4': backbone('LESAResNet'),
        'GSA in stages 3 and 4': backbone('GSAResNet'),
    },
}


def build_config(args: argparse.Namespace) -> Config:
    """Reads the task's config and puts the model into it."""
    cfg = read_config(str(HERE / f'comparison/{args.task}.py'), None, args.data_root)
    check_data(cfg, 'train', 'test')
    cfg.merge_from_dict(dict(model=MODELS[args.task][args.model]))
    if args.model == 'EA after stage 4':
        neck = cfg.model.neck
        cfg.model.neck = [dict(type='EANeck', in_channels=neck.in_channels), neck]
    cfg.randomness = dict(seed=args.seed)
    return cfg


def run_one(args: argparse.Namespace) -> None:
    """Trains and tests one model with one seed, and appends its rows."""
    cfg = build_config(args)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.work_dir = work_dir
        runner = Runner.from_cfg(cfg)
        before = resource.getrusage(resource.RUSAGE_SELF)
        runner.train()
        after = resource.getrusage(resource.RUSAGE_SELF)
        metrics = runner.test()
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    known = environment(next(runner.model.parameters()).device) | dict(
        task=args.task,
        config=args.task,
        model=args.model,
        seed=args.seed,
        params=sum(p.numel() for p in runner.model.parameters()),
        iterations=runner.iter,
        cpu_s=round(seconds),
        peak_mb=after.ru_maxrss // 1024,
    )
    append(
        args.out, [known | dict(metric=m, value=metrics[m]) for m in METRICS[args.task]]
    )


def append(path: Path, rows: list[Row]) -> None:
    """Adds the rows of a run to the CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(path, mode='a', header=not path.exists(), index=False)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def run_all(args: argparse.Namespace) -> None:
    """Runs what has no row yet, each in a process of its own, seed after seed."""
    for seed, model in itertools.product(range(args.seeds), MODELS[args.task]):
        done = read(args.out).query('task == @args.task')
        if ((done.model == model) & (done.seed == seed)).any():
            continue
        print(f'{args.task}, {model}, seed {seed}', flush=True)
        command = [sys.executable, __file__, args.task, '--out', str(args.out)]
        command += ['--data-root', args.data_root] if args.data_root else []
        command += ['--model', model, '--seed', str(seed)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def table(rows: pd.DataFrame, task: str) -> str:
    """Lays out mean and sample standard deviation over seeds."""
    body = []
    for model in MODELS[task]:
        mine = rows[(rows.task == task) & (rows.model == model)]
        values = [mine[mine.metric == metric].value for metric in METRICS[task]]
        if mine.empty:
            body.append([model, *['not run'] * len(values), '', '', '', '', ''])
            continue
        body.append(
            [model, *map(spread, values), len(values[0]), mine.iterations.iloc[0]]
            + [f'{mine.params.iloc[0] / 1e6:.2f}']
            + [f'{mine[column].mean():.0f}' for column in ('cpu_s', 'peak_mb')]
        )
    cost = ('seeds', 'iterations', 'params (10^6)', 'CPU s', 'peak MB')
    return markdown((task, *METRICS[task], *cost), body)


def spread(values: pd.Series) -> str:
    """Prints mean and standard deviation in per cent points."""
    values = values * 100 if values.max() <= 1 else values  # COCO's are fractions
    return f'{values.mean():.2f} ± {values.std():.2f}'.removesuffix(' ± nan')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('task', choices=[*MODELS, 'table'])
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each model')
    parser.add_argument(
        '--out',
        type=Path,
        default=HERE.parent / 'docs/benchmarks/comparison.csv',
        help='the rows, those of earlier runs included',
    )
    # One run, in the process that the command starts for it.
    parser.add_argument('--model', help=argparse.SUPPRESS)
    parser.add_argument('--seed', type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.model:
        run_one(args)
        return
    if args.task != 'table':
        run_all(args)
    for task in MODELS if args.task == 'table' else [args.task]:
        print(table(read(args.out), task), end='\n\n')


if __name__ == '__main__':
    with one_line_errors():
        main()
