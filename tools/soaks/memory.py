"""Memory and open files of a long training run of EANet, with validations and saving.

Training and validation have two data workers each, whose memory and files count, too.
The slope is a straight line through the memory after the warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from soaks.training import Job, Results, Training

MAX_SLOPE = 5.0  # MB per 1000 iterations
MAX_FILES = 8  # may come and go, with images and the batches of the workers
PROCESSES = 3  # with two data workers
OPTIONS = [
    'train_dataloader.num_workers=2',
    'val_dataloader.num_workers=2',
    'val_dataloader.dataset.indices=2',
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--warm-up', type=int, default=200)
    parser.add_argument('--every', type=int, default=10, help='iterations per sample')
    parser.add_argument(
        '--small', action='store_true', help='a narrow EANet on small images'
    )
    parser.add_argument(
        '--max-slope', type=float, default=MAX_SLOPE, help='MB per 1000 iterations'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/soak/memory.jsonl'))


def run(args: argparse.Namespace) -> str:
    """Runs it, and returns a summary.

    Raises:
        AssertionError: If training failed, or memory or open files grew.
    """
    results = Results(args.out)
    # A multiple, so that samples are taken half way between validations.
    interval = args.every * max(args.iterations // (20 * args.every), 1)
    samples = []
    with tempfile.TemporaryDirectory(prefix='soak-') as scratch:
        folder = Path(scratch)
        job = Job('eanet', folder, args.iterations, interval, args.small)
        validation = f'train_cfg.val_interval={interval}'
        training = job.start(folder / 'run', validation, *OPTIONS)
        for iteration in range(args.every // 2, args.iterations, args.every):
            training.wait_for(iteration)
            for row in measure(training):
                results.add(**row)
                samples.append(row)
        assert training.wait() == 0, training.tail()
    summary = summarize(samples, args.warm_up)
    results.add(
        summary='memory', iterations=args.iterations, warm_up=args.warm_up, **summary
    )
    check(summary, args.max_slope)
    return f'{args.iterations} iterations: {summary}'


def measure(training: Training) -> Iterator[dict]:
    """Yields what training and its data workers hold, unless it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess, OSError):
        trainer = psutil.Process(training.process.pid)
        processes = [trainer, *trainer.children(recursive=True)]
        yield dict(
            iteration=training.iteration,
            processes=len(processes),
            megabytes=round(sum(map(share_of_memory, processes)), 2),
            files=sum(process.num_fds() for process in processes),
        )


def share_of_memory(process: psutil.Process) -> float:
    """Gives megabytes, of pages of several processes a part each.

    Without the pages of files: which of them are in memory, and with whom they are
    shared, depends on what else runs on the machine.
    """
    text = Path(f'/proc/{process.pid}/smaps_rollup').read_text()
    return sum(map(int, re.findall(r'Pss_(?:Anon|Shmem): +(\d+) kB', text))) / 1e3


def summarize(samples: Sequence[dict], warm_up: int) -> dict:
    """Gives extremes and slopes after the warm-up.

    Samples in validations, which have more processes, are left out.

    Raises:
        AssertionError: If there are no others.
    """
    found = [
        (s['iteration'], s['megabytes'], s['files'])
        for s in samples
        if s['iteration'] > warm_up and s['processes'] == PROCESSES
    ]
    assert found, f'there are never {PROCESSES} processes'
    x, memory, files = np.array(found).T

    def slope(values: np.ndarray) -> float:
        return round(float(1000 * np.polyfit(x, values, 1)[0]), 3)

    return dict(
        samples=len(found),
        mb_per_1000_iterations=slope(memory),
        megabytes=[float(memory.min()), float(memory.max())],
        files=[int(files.min()), int(files.max())],
        files_per_1000_iterations=slope(files),
    )


def check(summary: dict, max_slope: float = MAX_SLOPE) -> None:
    """Refuses what looks like a leak.

    Raises:
        AssertionError: With the number that is too large.
    """
    slope = summary['mb_per_1000_iterations']
    assert slope <= max_slope, f'memory grew by {slope} MB per 1000 iterations'
    low, high = summary['files']
    assert high - low <= MAX_FILES, f'open files went from {low} to {high}'
