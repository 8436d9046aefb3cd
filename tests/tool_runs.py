"""Runs the programs of tools/ in this process, as a user would in one of its own.

An interpreter that imports the frameworks takes seconds.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

REPO = Path(__file__).resolve().parents[1]
TOOLS = REPO / 'tools'
DEMO = REPO / 'configs/eanet_r18_demo.py'


class Result(NamedTuple):
    """How a program ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def one_line(self) -> str:
        """Checks that it failed with one message, and returns that."""
        assert self.status == 1
        return self.stderr.strip()


def run_tool(name: str, *arguments, cwd: Path | None = None, **environment) -> Result:
    """Runs a program of tools/. What it raises, but ``SystemExit``, comes through.

    Args:
        name: Its file.
        *arguments: Its arguments.
        cwd: Where to run it; None for here.
        **environment: Variables to set.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    script = str(TOOLS / name)
    with (
        pytest.MonkeyPatch.context() as patch,
        mock.patch.dict(os.environ, environment),
        warnings.catch_warnings(),
        _own_instances(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd or '.')
        patch.setattr(sys, 'argv', [script, *map(str, arguments)])
        patch.setattr(sys, 'path', [str(TOOLS), *sys.path])
        warnings.simplefilter('ignore')
        try:
            runpy.run_path(script, run_name='__main__')
        except SystemExit as stop:
            status = stop.code or 0
            if not isinstance(status, int):
                print(status, file=err)
                status = 1
    return Result(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_instances() -> Iterator[None]:
    """Sets aside the loggers, visualizers and scopes that mmengine keeps by class."""
    try:
        from mmengine.utils import ManagerMixin
    except ImportError:
        yield
        return

    def classes(base: type = ManagerMixin) -> Iterator[type]:
        yield base
        for inner in base.__subclasses__():
            yield from classes(inner)

    kept = {cls: cls._instance_dict for cls in classes()}
    for cls in kept:
        cls._instance_dict = OrderedDict()
    try:
        yield
    finally:
        for cls in classes():
            cls._instance_dict = kept.get(cls, OrderedDict())


def draw_scenes(folder: Path, num_train: int = 4, num_val: int = 2) -> None:
    """Draws a small data set of the demo, of 60 x 80 pixels."""
    counts = ('--num-train', num_train, '--num-val', num_val)
    assert run_tool('make_demo_data.py', folder, *counts, '--size', '60x80').status == 0


def demo_options(data: Path, iterations: int) -> list[str]:
    """The options of ``--cfg-options`` for a short run of the demo."""
    return [
        *(f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val')),
        f'train_cfg.max_iters={iterations}',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
        'train_dataloader.batch_size=2',
    ]


def train_demo(
    data: Path, work_dir: Path, iterations: int, *more, status: int = 0, **options
) -> Result:
    """Trains the demo for some iterations, with a validation after every second one."""
    arguments = (DEMO, '--work-dir', work_dir, *more)
    settings = ('--cfg-options', *demo_options(data, iterations))
    result = run_tool('train.py', *arguments, *settings, **options)
    assert result.status == status, result.output[-5000:]
    return result


def scalars(work_dir: Path) -> list[dict]:
    """Reads the log of the latest run in a work folder."""
    log = max(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]
