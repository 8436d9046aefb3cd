"""The time that resuming takes, late in a run, with the stock loop and with ours.

A checkpoint of EANet's demo is given the number of a later iteration; what is measured
is the time from reading it to the end of the next iteration.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import attn_plugins.mm.engine.loading  # noqa: F401 (lets torch.load read them)
from soaks.training import Job, Results


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--iterations', type=int, nargs='+', default=[100, 1000, 4000])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/soak/resume.jsonl'))


def run(args: argparse.Namespace) -> str:
    """Runs it, and returns a summary.

    Raises:
        AssertionError: If training failed.
    """
    results = Results(args.out)
    with tempfile.TemporaryDirectory(prefix='soak-') as scratch:
        folder = Path(scratch)
        end = max(args.iterations) + 10
        job = Job('eanet', folder, length=end, interval=1, small=False)
        first = job.start(folder / 'first')
        first.wait_for(2)  # by then the first checkpoint is whole
        assert first.alive, first.tail()
        first.kill()
        checkpoint = torch.load(folder / 'first/iter_1.pth', weights_only=True)
        for iteration in args.iterations:
            checkpoint['meta']['iter'] = iteration
            row = dict(iteration=iteration)
            for name, options in (('ours', ()), ('stock', job.stock)):
                work_dir = folder / f'{name}_{iteration}'
                work_dir.mkdir()
                path = work_dir / f'iter_{iteration}.pth'
                torch.save(checkpoint, path)
                (work_dir / 'last_checkpoint').write_text(str(path))
                option = 'train_dataloader.num_workers=0'
                training = job.start(work_dir, option, *options, resume=True)
                training.wait_for(iteration + 1)
                assert training.alive, training.tail()
                training.kill()
                seconds = training.times['first'] - training.times['resumed']
                row[f'{name}_seconds'] = round(seconds, 2)
            results.add(**row)
    return f'resumed at iteration {iteration}, to the next one: {row}'
