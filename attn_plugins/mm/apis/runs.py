"""What a work folder holds: the config of a run, its checkpoint, its results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .launch import RUNNER_SETTINGS, LaunchError
from .prediction import Predictor

# A config may define any other name for its own use.
SETTINGS = RUNNER_SETTINGS - {'cfg', 'experiment_name', 'launcher', 'work_dir'}
ABSENT = '(not there)'
# The last line of an evaluation says that all batches of it are done: Iter(val) [5/5],
# or, where training counts in epochs, Epoch(val) [12][5/5].
EVALUATED = r'\((?:val|test)\) *(?:\[ *\d+\])?\[ *(\d+)/\1\]'


def run_config(work_dir: str | Path) -> Path:
    """Finds the config that mmengine wrote to a work folder, all bases merged.

    Raises:
        LaunchError: If there is none.
    """
    if not Path(work_dir).is_dir():
        raise LaunchError(f'there is no work folder {work_dir}')
    configs = sorted(Path(work_dir).glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise LaunchError(
            f'{work_dir} holds no config (NAME.py): is it the work folder of a run?'
        )
    return configs[-1]


def run_checkpoint(work_dir: str | Path) -> Path | None:
    """Finds the last checkpoint in a work folder, which may have been moved."""
    if (Path(work_dir) / 'last_checkpoint').is_file():
        last = Path(work_dir) / Path(find_latest_checkpoint(str(work_dir)) or '').name
        if last.is_file():
            return last
    checkpoints = Path(work_dir).glob('*.pth')
    return max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)


def read_stock(bases: Sequence[str]) -> Config:
    """Reads stock configs by their names, merged if there are several.

    Raises:
        LaunchError: If one of them does not exist.
    """
    try:
        return Config.fromstring(f'_base_ = {list(bases)!r}', '.py')
    except (ImportError, KeyError, OSError, ValueError) as error:
        raise LaunchError(
            f'there is no stock config {", ".join(bases)}: {error}'
        ) from None


def config_diff(base: Config, cfg: Config) -> list[tuple[str, str, str]]:
    """Lists the settings in which a config differs from another.

    Names that a config defines for its own use are left out.

    Returns:
        Dotted key, value in ``base``, value in ``cfg``.
    """
    ours, theirs = (dict(_flat(_plain(c.to_dict()))) for c in (cfg, base))
    keys = [*theirs, *(key for key in ours if key not in theirs)]
    rows = ((key, theirs.get(key, ABSENT), ours.get(key, ABSENT)) for key in keys)
    return sorted(
        row for row in rows if row[1] != row[2] and row[0].split('.')[0] in SETTINGS
    )


def _plain(value: Any) -> Any:
    """Puts keys in order, and takes off what mmengine writes in for other scopes."""
    if isinstance(value, dict):
        keys = sorted(value.keys() - {'_scope_'}, key=lambda key: (key != 'type', key))
        return {key: _plain(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _flat(value: Any, prefix: str = '') -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f'{prefix}.{key}' if prefix else str(key))
    else:
        yield prefix, repr(value)


def class_tables(folder: str | Path) -> list[tuple[str, list[list[str]]]]:
    """Reads the tables of results by class of the last evaluation in a run's text logs.

    Segmentation logs one at every validation, COCO detection one for boxes and one for
    masks, with ``CocoMetric(classwise=True)``.

    Returns:
        What each is of ('bbox', 'segm' or nothing), and its rows of cells, the header
        first; none if there is no table.
    """
    for log in sorted(Path(folder).glob('*/*.log'), reverse=True):
        tables: list[tuple[str, list[list[str]]]] = []
        for part in re.split(EVALUATED, log.read_text(errors='replace')):
            tables = list(_class_tables(part)) or tables
        if tables:
            return tables
    return []


def _class_tables(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    rows: list[list[str]] = []
    of = ''
    for line in [*text.splitlines(), '']:
        if line.startswith('|'):
            rows.append([cell.strip() for cell in line.strip('| ').split('|')])
        elif not line.startswith('+'):
            if rows and rows[0][0].lower() in ('category', 'class'):
                yield of, rows
            rows = []
            found = re.search(r'Evaluating (\w+)\.\.\.', line)
            of = found[1] if found else of


def parameter_table(predictor: Predictor) -> list[tuple[str, str, str]]:
    """Counts the parameters of each part of a model, in millions: all, trained."""
    parts = [*predictor.model.named_children(), ('all', predictor.model)]
    rows = []
    for name, part in parts:
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        if sizes:
            total = sum(size for size, _ in sizes) / 1e6
            trained = sum(size for size, grad in sizes if grad) / 1e6
            rows.append((name, f'{total:.3f}', f'{trained:.3f}'))
    return rows


def count_macs(predictor: Predictor, image: Any) -> int:
    """Counts the multiply-accumulates of predicting an image.

    By torch's counter: products and convolutions. It does not know mmcv's compiled
    operators, such as deformable convolution.

    Args:
        predictor: The model.
        image: BGR ``(H, W, 3)``, 8-bit.
    """
    # The counter does not know the fused attention of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        predictor.predict(image)
    return counter.get_total_flops() // 2


def versions() -> str:
    """Names the versions of what computed the results."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f'torch {torch.__version__}']
    for name in ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain'):
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return ', '.join(found)
