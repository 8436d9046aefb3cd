"""Jobs of several processes, on machines with GPUs and without.

mmengine starts each distributed job for GPUs: it selects the one of the process and
tells the model's wrapper of it. Without a GPU the settings here keep it from that, and
can go when mmengine asks for the device first.
"""

import os
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.device import get_device

from .errors import LaunchError


def is_first_process() -> bool:
    """Whether this process of a job is the one that reports, before the job has met."""
    return (os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0') == '0'


def prepare_processes(cfg: Config) -> None:
    """Lets the processes of a job without GPUs meet through gloo, on their CPUs.

    Args:
        cfg: The config, its launcher set.

    Raises:
        LaunchError: If a norm is synchronised, which torch does on GPUs only; it names
            the settings that have to change.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    changes = [f'{key}=BN' for key in _synchronised(cfg.model, 'model')]
    if cfg.get('sync_bn'):
        changes.append('sync_bn=None')
    if changes:
        raise LaunchError(
            'SyncBN needs GPUs, and torch sees none: for several processes on CPUs use '
            f'plain batch norm, --cfg-options {" ".join(changes)}'
        )
    # mmengine selects the GPU of this number; torch selects none if it is negative.
    for name in ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        os.environ[name] = '-1'
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    given = cfg.get('model_wrapper_cfg') or {}
    cfg.model_wrapper_cfg = {**wrapper, **given, 'device_ids': None}


def _synchronised(part: object, key: str) -> Iterator[str]:
    """Lists the keys of all synchronised norms of a config, each once."""
    items = part.items() if isinstance(part, dict) else ()
    if isinstance(part, list | tuple):
        items = enumerate(part)
    for name, value in items:
        is_norm = isinstance(value, str) and value.endswith(('SyncBN', 'SyncBatchNorm'))
        if name == 'type' and is_norm:
            yield f'{key}.type'
        else:
            yield from _synchronised(value, f'{key}.{name}')
