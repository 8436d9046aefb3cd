"""Kills training again and again, and resumes it each time.

It dies by SIGKILL at random moments (in the start-up, an iteration, a validation) and
while a checkpoint is being written, and by itself of a full disk: a small tmpfs where
mounting is permitted, else a limit on the size of files. The number of data workers
changes from life to life. After each death all checkpoints must load, and the last one
must not be older than before. The final weights and the optimizer's state must equal
those of a run without interruption, bit for bit.

At the end it measures the time from the resumed checkpoint to the next iteration, with
the stock loop and with ours.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import attn_plugins.mm.engine.loading  # noqa: F401 (lets torch.load read them)
from attn_plugins.mm.engine.atomic_write import TEMPORARY, remove_leftovers
from soaks.training import MODELS, Job, Results, Training

# One round of deaths, as intended.
ROUND = ('moment', 'writing', 'full disk', 'moment', 'writing')
# What training was doing when they came. A kill may come in the start-up, before the
# first iteration of that life, and may miss the writing.
KILLS = ('start-up', 'moment', 'writing')
DEATHS = (*KILLS, 'full disk')


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('model', choices=MODELS)
    parser.add_argument('--kills', type=int, default=24)
    parser.add_argument('--length', type=int, help='iterations (eanet), epochs (lesa)')
    parser.add_argument('--interval', type=int, default=None, help='of checkpoints')
    parser.add_argument(
        '--small', action='store_true', help='a narrow EANet on small images'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/soak/crash.jsonl'))


def run(args: argparse.Namespace) -> str:
    """Runs it, and returns a summary.

    Raises:
        AssertionError: If anything was lost, or the weights differ.
    """
    length = args.length or (200 if args.model == 'eanet' else 24)
    interval = args.interval or (10 if args.model == 'eanet' else 1)
    with tempfile.TemporaryDirectory(prefix='soak-') as scratch:
        folder = Path(scratch)
        job = Job(args.model, folder, length, interval, args.small)
        crash = Crash(job, folder, Results(args.out), np.random.default_rng(args.seed))
        return crash.run(args.kills)


class Crash:
    """A run in many lives, beside a whole one."""

    def __init__(
        self, job: Job, folder: Path, results: Results, rng: np.random.Generator
    ) -> None:
        self.job = job
        self.work_dir = folder / 'lives'
        self.whole = folder / 'whole'
        self.results = results
        self.rng = rng
        self.counts = dict.fromkeys(DEATHS, 0)
        self.half_written = 0

    def run(self, kills: int) -> str:
        started = time.monotonic()
        training = self.job.start(self.whole, 'train_dataloader.num_workers=0')
        assert training.wait() == 0, training.tail()
        seconds = time.monotonic() - started
        self.pace = (seconds - training.times['first']) / self.job.last
        self.results.add(event='whole run', seconds=round(seconds, 1))

        saved = 0
        turn = 0
        while self.kills < kills or not self.counts['full disk']:
            how = ROUND[turn % len(ROUND)]
            if how == 'full disk' and not saved:
                how = 'moment'  # there is nothing yet that could be lost
            else:
                turn += 1
            before = saved
            # As far as the number of kills left allows, past a checkpoint at times.
            span = (self.job.last - saved) / max(kills - self.kills, 1)
            span = max(span, self.job.interval)
            row, saved = self.live(how, saved, span)
            self.results.add(**row)
            assert saved >= before, f'checkpoint {before} was lost, {saved} is the last'
            if row['event'] == 'end':
                break  # it came to its end before it could be killed
        training = self.job.start(self.work_dir, resume=True)
        assert training.wait() == 0, training.tail()

        equal = self.compare()
        loads = self.time_of_resuming()
        self.results.add(
            event='summary', deaths=self.counts, half_written=self.half_written,
            equal_tensors=equal, **loads, seconds=_since(started),
        )  # fmt: skip
        return (
            f'{self.kills} kills ({self.counts["start-up"]} in the start-up, '
            f'{self.counts["writing"]} at a checkpoint, {self.half_written} left half '
            f'of it) and {self.counts["full disk"]} full disks: all {equal} tensors '
            f'are equal; resuming {loads}'
        )

    @property
    def kills(self) -> int:
        return sum(self.counts[event] for event in KILLS)

    def live(self, how: str, saved: int, span: float) -> tuple[dict, int]:
        """Resumes, dies, and looks at what is left."""
        workers = int(self.rng.integers(3))
        option = f'train_dataloader.num_workers={workers}'
        goal = saved + int(self.rng.uniform(0, 2 * span))
        goal = min(goal, self.job.last - 2 * self.job.interval)
        if how == 'full disk':
            training, found = self.fill_disk(option)
        else:
            training, found = self.kill(option, how, goal if goal > saved else None)
        if found['event'] in self.counts:
            self.counts[found['event']] += 1
        half = 0
        if found['event'] == 'writing':  # else it would be of an earlier life
            half = sum(path.stat().st_size for path in _temporary(self.work_dir))
        self.half_written += bool(half)
        iteration = _check_checkpoints(self.work_dir)
        row = dict(
            **found, workers=workers, resumed_from=saved,
            status=training.process.exitcode, iteration=max(training.iteration, saved),
            half_written=half, saved=iteration,
        )  # fmt: skip
        row |= {f'seconds_to_{k}': round(v, 2) for k, v in training.times.items()}
        return row, iteration

    def fill_disk(self, option: str) -> tuple[Training, dict]:
        """Trains until the disk is full, and tells by what it was."""
        remove_leftovers(self.work_dir)  # training does, and would have room then
        with _full_disk(self.work_dir) as (kind, limits):
            before = _digests(self.work_dir)
            training = self.job.start(self.work_dir, option, resume=True, **limits)
            status = training.wait()
            after = _digests(self.work_dir)
        assert status, 'training did not notice the full disk'
        assert 'cannot be written' in training.lines[-1], training.tail()
        assert before == after, 'a full disk changed what had been saved'
        assert not _temporary(self.work_dir), 'half a file was left'
        return training, dict(event='full disk', by=kind)

    def kill(self, option: str, how: str, goal: int | None) -> tuple[Training, dict]:
        """Trains past an iteration, if any, and tells in what the kill came."""
        training = self.job.start(self.work_dir, option, resume=True)
        writing = False
        if goal is None:
            time.sleep(self.rng.uniform(0, 4))  # likely in the start-up
        else:
            training.wait_for(goal)
            time.sleep(self.rng.uniform(0, self.pace))
            if how == 'writing':
                checkpoint = (goal // self.job.interval + 1) * self.job.interval
                writing = _wait_for_writing(training, self.work_dir, checkpoint)
        training.kill()
        status = training.process.exitcode
        assert status in (0, -signal.SIGKILL), training.tail()
        if not status:
            event = 'end'  # it was faster
        elif 'first' not in training.times:
            event = 'start-up'
        elif writing or _temporary(self.work_dir):
            event = 'writing'
        else:
            event = 'moment'
        return training, dict(event=event)

    def compare(self) -> int:
        """Compares the final checkpoints, and returns the number of tensors."""
        whole, lives = (
            torch.load(_last(f), weights_only=True) for f in (self.whole, self.work_dir)
        )
        keys = ('state_dict', 'optimizer', 'param_schedulers')
        pairs = [
            pair
            for key in keys
            for pair in zip(_leaves(whole[key]), _leaves(lives[key]), strict=True)
        ]
        differing = sum(not torch.equal(*pair) for pair in pairs)
        assert not differing, f'{differing} of {len(pairs)} tensors differ'
        return len(pairs)

    def time_of_resuming(self) -> dict[str, float]:
        """Measures from the last checkpoint but one to the next iteration."""
        found = {}
        for name, options in (('ours', ()), ('stock', self.job.stock)):
            folder = self.whole.with_name(name)
            folder.mkdir()
            checkpoints = sorted(self.whole.glob('*.pth'), key=_number)
            copy = shutil.copy(checkpoints[-2], folder)
            (folder / 'last_checkpoint').write_text(str(copy))
            option = 'train_dataloader.num_workers=0'
            training = self.job.start(folder, option, *options, resume=True)
            training.wait_for(1)
            training.kill()
            times = training.times
            found[f'{name}_seconds_to_next_iteration'] = round(
                times['first'] - times['resumed'], 2
            )
        return dict(resumed_from=_number(checkpoints[-2]), **found)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 1)


def _number(path: Path) -> int:
    return int(path.stem.rpartition('_')[2])


def _last(folder: Path) -> Path:
    return Path((folder / 'last_checkpoint').read_text())


def _leaves(value) -> Iterator[torch.Tensor]:
    if isinstance(value, dict):
        value = [value[key] for key in value]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, int | float | torch.Tensor):
        yield torch.as_tensor(value)


def _check_checkpoints(folder: Path) -> int:
    """Loads all checkpoints, and returns the iteration of the last one, or 0."""
    for path in folder.glob('*.pth'):
        torch.load(path, weights_only=True)
    if not (folder / 'last_checkpoint').exists():
        return 0
    return torch.load(_last(folder), weights_only=True)['meta']['iter']


def _digests(folder: Path) -> dict[str, str]:
    paths = [*folder.glob('*.pth'), folder / 'last_checkpoint']
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def _temporary(folder: Path, name: str = '*') -> list[Path]:
    """Lists files that are being written, or were when the writer was killed."""
    return list(folder.glob(TEMPORARY.format(name)))


def _wait_for_writing(training: Training, folder: Path, iteration: int) -> bool:
    """Waits for the temporary file of a checkpoint, or past it.

    Returns:
        Whether the file was seen.
    """
    while training.alive and training.iteration <= iteration:
        if _temporary(folder, '*.pth'):
            return True
        time.sleep(0.0003)
    return False


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Leaves room for half a checkpoint, no more.

    Yields:
        How that was done, and the limits of the process.
    """
    half = _last(folder).stat().st_size // 2
    aside = folder.with_suffix('.aside')
    folder.rename(aside)
    folder.mkdir()
    size = sum(p.stat().st_size for p in aside.rglob('*') if p.is_file())
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size + half}', 'tmpfs', folder]
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(mount, capture_output=True, check=False).returncode
    )
    if not mounted:
        folder.rmdir()
        aside.rename(folder)
        yield 'limit on the size of files', dict(file_limit=half)
        return
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield 'tmpfs', {}
    finally:
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
        subprocess.run(['umount', folder], check=True)
        folder.rmdir()
        aside.rename(folder)
