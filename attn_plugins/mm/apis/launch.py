"""What the command-line tools share: arguments, config, checks before any time is lost.

The tools stay on mmengine's own path, ``Config.fromfile`` and ``Runner.from_cfg``, so
the stock tools of mmseg, mmdet and mmpretrain do the same with the same configs.
"""

import argparse
import contextlib
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, DictAction

from ..datasets.config_checks import ConfigError, check_options
from ..datasets.dataset_checks import DataError
from ..engine.loading import BrokenCheckpointError
from ..engine.writing import WriteError

SPLITS = ('train', 'val', 'test')


class LaunchError(ValueError):
    """A mistake in the command or the config, found before anything was started."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing share, named as in mmdet/mmseg."""
    parser.add_argument('--work-dir', help='folder of logs, checkpoints and metrics')
    parser.add_argument(
        '--data-root',
        help='folder of the data set, in place of the data_root in the config',
    )
    add_config_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed job were started',
    )
    # torchrun sets LOCAL_RANK; older launchers pass one of these.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``, as in mmdet and mmseg."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=2 '
        'model.pretrained=None key="[a,b]"',
    )


def read_config(
    path: str, options: dict | None = None, data_root: str | None = None
) -> Config:
    """Reads a config.

    Args:
        path: Its file.
        options: Settings to override, by dotted keys.
        data_root: Folder of all its data sets; None to leave them where they are.

    Raises:
        LaunchError: If the file does not exist or cannot be read.
        ConfigError: If an option is for a setting that does not exist.
    """
    if not os.path.isfile(path):
        raise LaunchError(f'there is no config file {path}')
    # mmengine asks pkg_resources for every external base config.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise LaunchError(
            f'{path} has a syntax error in line {error.lineno}: {error.msg}'
        ) from None
    except (AttributeError, ImportError, KeyError, NameError, TypeError) as error:
        raise LaunchError(
            f'{path} cannot be read: {type(error).__name__}: {error}'
        ) from None
    if data_root:
        _move_data(cfg, data_root)
    if options:
        check_options(cfg, options)
        cfg.merge_from_dict(options)
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Loads ``args.config`` and applies the common arguments to it.

    Raises:
        LaunchError: If the file does not exist.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options, args.data_root)
    cfg.launcher = args.launcher
    default_work_dir = os.path.join('work_dirs', Path(args.config).stem)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir
    return cfg


def _move_data(cfg: Config, root: str) -> None:
    """Points all data sets, and the metrics that read a file of them, to a folder."""
    for split in SPLITS:
        for dataset in datasets_of(cfg, split):
            old = dataset.get('data_root') or ''
            dataset.data_root = root
            for metric in metrics_of(cfg, split):
                if old and metric.get('ann_file', '').startswith(old):
                    path = os.path.relpath(metric.ann_file, old)
                    metric.ann_file = os.path.join(root, path)


def metrics_of(cfg: Config, split: str) -> list[dict]:
    """Lists the metrics of a split, one or several as the config has them."""
    evaluator = cfg.get(f'{split}_evaluator') or []
    return evaluator if isinstance(evaluator, list) else [evaluator]


def datasets_of(cfg: Config, *splits: str) -> list[dict]:
    """Lists the data sets of the given splits, wrappers opened."""

    def leaves(dataset: dict) -> list[dict]:
        inner = dataset.get('datasets') or [dataset.get('dataset')]
        return [leaf for d in inner for leaf in leaves(d)] if inner[0] else [dataset]

    dataloaders = (cfg.get(f'{split}_dataloader') for split in splits)
    return [leaf for loader in dataloaders if loader for leaf in leaves(loader.dataset)]


def check_data(cfg: Config, *splits: str, labels: bool = True) -> None:
    """Checks that every folder and list file that the data sets name is there.

    Args:
        cfg: The config.
        *splits: 'train', 'val' and 'test', those that are going to be used.
        labels: Whether label maps and annotation files must exist too.

    Raises:
        LaunchError: If one is missing; it shows the expected layout, and how to point
            elsewhere.
    """
    paths: dict[str, None] = {}
    for dataset in datasets_of(cfg, *splits):
        root = dataset.get('data_root') or ''
        prefixes = dataset.get('data_prefix') or {}
        if not isinstance(prefixes, dict):  # mmpretrain takes a single folder as well
            prefixes = dict(img_path=prefixes)
        folders = [p for key, p in prefixes.items() if labels or key != 'seg_map_path']
        for path in (*folders, dataset.get('ann_file')):
            if isinstance(path, str) and path and '://' not in root + path:
                paths[os.path.normpath(os.path.join(root, path))] = None
    for metric in (m for split in splits for m in metrics_of(cfg, split)):
        if metric.get('ann_file') and '://' not in metric['ann_file']:
            paths[os.path.normpath(metric['ann_file'])] = None
    if all(map(os.path.exists, paths)):
        return
    rows = (f'  {"found  " if os.path.exists(p) else "MISSING"}  {p}' for p in paths)
    raise LaunchError(
        f'the data set is not where the config expects it (from {os.getcwd()}):\n'
        + '\n'.join(rows)
        + '\nPut it there, or name its folder with --data-root DIR (in stock tools, '
        'with --cfg-options for the data_root of each data set).'
    )


def check_checkpoint(path: str) -> None:
    """Checks that a local checkpoint is there.

    Raises:
        LaunchError: If it is not.
    """
    if '://' not in path and not os.path.isfile(os.path.expanduser(path)):
        raise LaunchError(f'there is no checkpoint {path}')


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one message for mistakes that need no stack trace.

    Of the processes of a distributed job only the first one speaks.
    """
    try:
        yield
    except (
        BrokenCheckpointError,
        ConfigError,
        DataError,
        LaunchError,
        FileNotFoundError,
        PermissionError,
        WriteError,
        pickle.UnpicklingError,
    ) as error:
        message = str(error)
        if message.startswith('Caught '):  # in a worker of a data loader, with a trace
            message = message.strip().splitlines()[-1].partition(': ')[2]
        rank = os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0'
        sys.exit(f'{Path(sys.argv[0]).name}: error: {message}' if rank == '0' else 1)
