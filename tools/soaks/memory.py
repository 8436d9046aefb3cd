"""Memory and open files of a long training run of EANet, with validations and saving.

The slope is a straight line through the resident memory after the warm-up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from soaks.training import Job, Results

PAGE = os.sysconf('SC_PAGE_SIZE') / 1e6


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--warm-up', type=int, default=200)
    parser.add_argument('--every', type=int, default=10, help='iterations per sample')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/soak/memory.jsonl'))


def run(args: argparse.Namespace) -> str:
    """Runs it, and returns a summary.

    Raises:
        AssertionError: If training failed.
    """
    results = Results(args.out)
    samples = []
    with tempfile.TemporaryDirectory(prefix='soak-') as scratch:
        folder = Path(scratch)
        interval = max(args.iterations // 20, 2)
        job = Job('eanet', folder, args.iterations, interval, small=True)
        training = job.start(folder / 'run', f'train_cfg.val_interval={interval}')
        for iteration in range(args.every, args.iterations, args.every):
            training.wait_for(iteration)
            if not training.alive:
                break
            proc = Path('/proc', str(training.process.pid))
            row = dict(
                iteration=training.iteration,
                megabytes=round(int((proc / 'statm').read_text().split()[1]) * PAGE, 2),
                files=len(list((proc / 'fd').iterdir())),
            )
            results.add(**row)
            samples.append(row)
        assert training.wait() == 0, training.tail()
    warm = [row for row in samples if row['iteration'] > args.warm_up]
    x, y, files = (
        np.array([row[k] for row in warm]) for k in ('iteration', 'megabytes', 'files')
    )
    summary = dict(
        summary='memory',
        iterations=args.iterations,
        warm_up=args.warm_up,
        mb_per_1000_iterations=round(1000 * np.polyfit(x, y, 1)[0], 3),
        megabytes=[y.min(), y.max()],
        files=[int(files.min()), int(files.max())],
        files_slope_per_1000=round(1000 * np.polyfit(x, files, 1)[0], 3),
    )
    results.add(**summary)
    return (
        f'{args.iterations} iterations: {summary["mb_per_1000_iterations"]} MB per '
        f'1000 after the first {args.warm_up}, {y.min()} to {y.max()} MB, '
        f'{files.min()} to {files.max()} open files'
    )
