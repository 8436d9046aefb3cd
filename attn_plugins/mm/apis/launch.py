"""What the command-line tools share: arguments, config, checks before any time is lost.

The tools stay on mmengine's own path, ``Config.fromfile`` and ``Runner.from_cfg``, so
the stock tools of mmseg, mmdet and mmpretrain do the same with the same configs.
"""

import argparse
import contextlib
import inspect
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from ...spelling import closest
from ..datasets.checks import check_data
from ..datasets.settings import SPLITS, datasets_of, metrics_of
from ..engine.errors import ConfigError, LaunchError, UserError
from ..engine.processes import is_first_process

__all__ = (  # also what commands take from the other rooms
    'RUNNER_SETTINGS',
    'SPLITS',
    'LaunchError',
    'add_common_arguments',
    'add_config_options',
    'check_checkpoint',
    'check_data',
    'datasets_of',
    'load_config',
    'metrics_of',
    'one_line_errors',
    'read_config',
)
# What a runner reads from a config; any other name is for the config's own use.
RUNNER_SETTINGS = {
    *inspect.signature(Runner).parameters,
    'auto_scale_lr',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}

_CHECKING_HOOKS = ('checkloss_hook.py', 'num_class_check_hook.py')  # of mmdet


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
    parser.add_argument(
        '--no-checks',
        dest='checks',
        action='store_false',
        help='start at once: do not look at data, weights, labels and losses',
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
        _check_options(cfg, options)
        try:
            cfg.merge_from_dict(options)
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigError(
                f'--cfg-options {" ".join(options)}: the config has no such setting '
                f'({type(error).__name__}: {error})'
            ) from None
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


def _check_options(cfg: Config, options: dict) -> None:
    """Checks the sections of options: mmengine adds and ignores what nobody reads."""
    for key in options:
        section = key.partition('.')[0]
        if section not in {*cfg, *RUNNER_SETTINGS}:
            raise ConfigError(
                f'--cfg-options {key}: the config has no setting {section!r}'
                f'{closest(section, {*cfg, *RUNNER_SETTINGS})}'
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
        UserError,
        FileNotFoundError,
        PermissionError,
        pickle.UnpicklingError,
    ) as error:
        message = str(error)
        if message.startswith('Caught '):  # in a worker of a data loader, with a trace
            message = message.strip().splitlines()[-1].partition(': ')[2]
        _end(message)
    except AssertionError as error:
        *_, frame = traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name not in _CHECKING_HOOKS:
            raise
        loss = frame.name == 'after_train_iter'
        _end('the loss is not finite: the log says more' if loss else str(error))


def _end(message: str) -> NoReturn:
    line = f'{Path(sys.argv[0]).name}: error: {message}'
    sys.exit(line if is_first_process() else 1)
