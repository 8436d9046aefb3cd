"""Does attention help? The same schedule with and without it, several seeds each.

    python tools/compare.py camvid --data-root DIR     # segmentation
    python tools/compare.py nuts --data-root DIR       # detection
    python tools/compare.py all --data-root DIR        # both, of DIR/camvid, DIR/nuts
    python tools/compare.py table                      # what there is

Every run is a process of its own and adds its row to the CSV file when it ends. Runs
that have a row are not repeated, so an interrupted comparison goes on when the command
is given again. All models of a seed come before the next seed.

The schedules are small enough for a CPU: tools/comparison/. On a GPU, give larger ones
with --config: the same models are put into them, and their names go into the rows.
Time is the CPU time of the training process, which other programs change less than the
time that passes; memory is the largest resident size of that process.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import environment
from benchmarks.tables import markdown
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from attn_plugins.mm.apis.launch import check_data, one_line_errors, read_config

HERE = Path(__file__).parent
COLUMNS = (
    'task', 'config', 'model', 'seed', 'metric', 'value', 'params', 'iterations',
    'cpu_s', 'peak_mb', 'device', 'torch', 'threads', 'hardware', 'commit',
)  # fmt: skip
METRICS = {'camvid': ('mIoU',), 'nuts': ('coco/bbox_mAP', 'coco/segm_mAP')}

Row = dict[str, str]


def head_attention(model: ConfigDict, attn: dict | None) -> None:
    """Sets the attention layer of EANet's head."""
    model.decode_head.attn = attn


def external(num_slots: int, normalization: str) -> functools.partial:
    layer = dict(type='ExternalAttention2d', normalization=normalization)
    return functools.partial(head_attention, attn=dict(layer, num_slots=num_slots))


def self_attention(normalization: str) -> functools.partial:
    layer = dict(type='SelfAttention2d', normalization=normalization)
    return functools.partial(head_attention, attn=layer)


def stock(model: ConfigDict) -> None:
    """Leaves the model as it is."""


def neck(model: ConfigDict) -> None:
    """Puts one EA between backbone and neck, at the end of stage 4."""
    model.neck = [dict(type='EANeck', in_channels=model.neck.in_channels), model.neck]


def backbone(model: ConfigDict, name: str) -> None:
    """Puts attention into the last two stages."""
    stages = (False, False, True, True)
    model.backbone.update(type=name, stage_with_attn=stages, rel_pos_input_size=256)


# What each model does to the config's `model`.
MODELS = {
    'camvid': {
        'no attention': functools.partial(head_attention, attn=None),
        'self-attention, softmax': self_attention('softmax'),
        'self-attention, double norm': self_attention('double'),
        'EA, 64 slots, softmax': external(64, 'softmax'),
        'EA, 64 slots, double norm': external(64, 'double'),
        'EA, 8 slots, softmax': external(8, 'softmax'),
        'EA, 8 slots, double norm': external(8, 'double'),
    },
    'nuts': {
        'no attention': stock,
        'EA after stage 4': neck,
        'LESA in stages 3 and 4': functools.partial(backbone, name='LESAResNet'),
        'GSA in stages 3 and 4': functools.partial(backbone, name='GSAResNet'),
    },
}


def build_config(args: argparse.Namespace) -> Config:
    """Reads the task's config and puts the model into it."""
    cfg = read_config(str(args.config), None, args.data_root)
    check_data(cfg, 'train', 'test')
    MODELS[args.task][args.model](cfg.model)
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
    model = runner.model
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    known = environment(next(model.parameters()).device) | dict(
        task=args.task,
        config=args.config.stem,
        model=args.model,
        seed=args.seed,
        params=sum(p.numel() for p in model.parameters()),
        iterations=runner.iter,
        cpu_s=round(seconds),
        peak_mb=after.ru_maxrss // 1024,
    )
    rows = [dict(known, metric=m, value=metrics[m]) for m in METRICS[args.task]]
    append(args.out, rows)


def append(path: Path, rows: list[dict]) -> None:
    """Adds rows to the CSV file, all of a run at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def run_all(args: argparse.Namespace) -> None:
    """Runs what has no row yet, each in a process of its own."""
    config = args.config.stem
    check_data(read_config(str(args.config), None, args.data_root), 'train', 'test')
    for seed, model in itertools.product(range(args.seeds), MODELS[args.task]):
        if any(
            (row['task'], row['config'], row['model'], row['seed'])
            == (args.task, config, model, str(seed))
            for row in read(args.out)
        ):
            continue
        print(f'{args.task}, {model}, seed {seed}', flush=True)
        command = [sys.executable, __file__, args.task, '--config', str(args.config)]
        command += ['--out', str(args.out)]
        command += ['--data-root', args.data_root] if args.data_root else []
        command += ['--model', model, '--seed', str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()[-1:]
            print(f'  failed: {"".join(lines)}', flush=True)


def table(path: Path, seeds: int) -> str:
    """Lays out mean and standard deviation over seeds; what was not run says so."""
    rows = read(path)
    # The schedules of tools/comparison/ in any case, and others that have rows.
    found = {(task, task): None for task in MODELS}
    found |= {(row['task'], row['config']): None for row in rows}
    tables = []
    for task, config in found:
        same = [row for row in rows if (row['task'], row['config']) == (task, config)]
        lines = [cells(same, model, METRICS[task], seeds) for model in MODELS[task]]
        cost = ('iterations', 'params (10^6)', 'CPU s', 'peak MB')
        tables.append(markdown((config, *METRICS[task], 'seeds', *cost), lines))
    return '\n\n'.join(tables)


def cells(
    rows: list[Row], model: str, metrics: Sequence[str], seeds: int
) -> tuple[str, ...]:
    """Makes the table's line of one model."""
    mine = [row for row in rows if row['model'] == model]
    values = {m: [float(r['value']) for r in mine if r['metric'] == m] for m in metrics}
    count = len(values[metrics[0]])
    if not count:
        return (model, *['not run'] * len(metrics), f'0 of {seeds}', '', '', '', '')
    return (
        model,
        *map(spread, values.values()),
        f'{count} of {seeds}',
        mine[0]['iterations'],
        f'{int(mine[0]["params"]) / 1e6:.2f}',
        f'{statistics.mean(float(row["cpu_s"]) for row in mine):.0f}',
        f'{statistics.mean(float(row["peak_mb"]) for row in mine):.0f}',
    )


def spread(values: Sequence[float]) -> str:
    """Prints mean and sample standard deviation in per cent points."""
    if max(values) <= 1:  # COCO's metrics are fractions
        values = [100 * value for value in values]
    mean = f'{statistics.mean(values):.2f}'
    return f'{mean} ± {statistics.stdev(values):.2f}' if len(values) > 1 else mean


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('task', choices=[*MODELS, 'all', 'table'])
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each model')
    parser.add_argument(
        '--config', type=Path, help='the schedule, and all but the model'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=HERE.parent / 'docs/benchmarks/comparison.csv',
        help='the rows, those of earlier runs included',
    )
    # One run, in the process that the command starts for it.
    parser.add_argument('--model', help=argparse.SUPPRESS)
    parser.add_argument('--seed', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.task == 'all' and args.config:
        parser.error('--config is for one task, not for all')
    if args.task in MODELS:
        args.config = args.config or schedule(args.task)
    return args


def schedule(task: str) -> Path:
    return HERE / f'comparison/{task}.py'


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    tasks = {'all': list(MODELS), 'table': []}.get(args.task, [args.task])
    for task in tasks:
        folder = args.data_root
        if folder and args.task == 'all':
            folder = str(Path(folder, task))
        config = args.config or schedule(task)
        one = {**vars(args), 'task': task, 'data_root': folder, 'config': config}
        (run_one if args.model else run_all)(argparse.Namespace(**one))
    if not args.model:
        print(table(args.out, args.seeds))


if __name__ == '__main__':
    with one_line_errors():
        main()
