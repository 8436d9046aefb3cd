"""Everything that the tools check of a run before it starts, in one call."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

from mmengine.config import Config

from ..apis.launch import LaunchError, datasets_of
from ..engine.loading import load_from_local
from .config_checks import (
    check_classes,
    check_config,
    classes_of,
    default_of,
    type_name,
)
from .dataset_checks import DataError, check_coco, check_image_list
from .fitting import weights_of


def check_run(cfg: Config, *splits: str) -> None:
    """Checks config, work folder and annotations, and adds the checks while it runs.

    Args:
        cfg: The config; it gets the hooks and the transform of :mod:`.checking`.
        *splits: 'train', 'val' and 'test', those that are going to be used.

    Raises:
        LaunchError: If the work folder cannot be written to, or `load_from` holds no
            weights.
        ConfigError: As :mod:`.config_checks` says.
        DataError: As :mod:`.dataset_checks` says.
        BrokenCheckpointError: If `load_from` cannot be read.
        pickle.UnpicklingError: If it holds code.
    """
    check_config(cfg, *splits)
    datasets = datasets_of(cfg, *splits)
    check_classes(cfg, datasets)
    _check_work_dir(cfg.work_dir)
    if cfg.get('load_from'):
        check_weights(cfg.load_from)
    training = 'train' in splits
    for dataset in datasets_of(cfg, 'train') if training and _is_first() else []:
        counts = check_annotations(dataset, cfg)
        if counts:
            print(summary(dataset.ann_file, counts), file=sys.stderr)
    for dataset in datasets:
        check_folder(dataset, cfg.get('default_scope'))
        _check_files_of(dataset)
    whole = not training or bool(cfg.get('resume'))
    hooks = [dict(type='CheckWeightsHook', whole=whole)]
    if training:
        hooks.append(dict(type='CheckBatchHook'))
    given = {type_name(hook) for hook in cfg.get('custom_hooks') or []}
    cfg.custom_hooks = [
        *(cfg.get('custom_hooks') or []),
        *(hook for hook in hooks if hook['type'] not in given),
    ]
    # The config in the work folder is for stock tools as well.
    imports = cfg.get('custom_imports') or dict(imports=[])
    modules = imports['imports']
    modules = [modules] if isinstance(modules, str) else modules
    if 'attn_plugins' not in modules:
        cfg.custom_imports = {**imports, 'imports': [*modules, 'attn_plugins']}


def _is_first() -> bool:
    """Whether this process is the one of a job that speaks for all."""
    return (os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0') == '0'


def check_annotations(dataset: dict, cfg: Config) -> Counter[str]:
    """Checks the annotation file of a data set, if it is of a kind that is known.

    Returns:
        Counts as of :func:`~.dataset_checks.check_coco`; nothing for other kinds.
    """
    root, ann_file = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    path = os.path.join(root, ann_file)
    if not os.path.isfile(path):
        return Counter()
    prefix = dataset.get('data_prefix') or ''
    folder = prefix if isinstance(prefix, str) else prefix.get('img', '')
    folder = _local(os.path.join(root, folder), dataset)
    kind = type_name(dataset)
    if kind == 'CocoDataset':
        steps = [step for step in dataset.get('pipeline') or [] if type_name(step)]
        kept = dataset.get('filter_cfg') or {}
        return check_coco(
            path,
            classes_of(dataset, cfg.get('default_scope')),
            folder,
            with_mask=any(step.get('with_mask') for step in steps),
            may_be_empty=not kept.get('filter_empty_gt'),
        )
    if kind in ('CustomDataset', 'ImageNet') and dataset.get('with_label', True):
        if not isinstance(prefix, str):
            folder = os.path.join(root, prefix.get('img_path', ''))
            folder = _local(folder, dataset)
        head = cfg.model.get('head') or {}
        check_image_list(path, folder, head.get('num_classes'))
    return Counter()


def check_folder(dataset: dict, scope: str | None) -> None:
    """Checks that a folder of images that no file lists holds one at all.

    Raises:
        DataError: If none has the suffix that the data set looks for.
    """
    prefix = dataset.get('data_prefix')
    images = prefix.get('img_path') if isinstance(prefix, dict) else None
    suffix = dataset.get('img_suffix') or default_of(dataset, 'img_suffix', scope)
    if dataset.get('ann_file') or not (images and isinstance(suffix, str)):
        return
    folder = _local(os.path.join(dataset.get('data_root') or '', images), dataset)
    if folder and not next(Path(folder).rglob(f'*{suffix}'), None):
        raise DataError(
            f'{folder}: no file ends in {suffix}, which is the img_suffix of this data '
            'set: set it to that of the images'
        )


def _local(folder: str, dataset: dict) -> str | None:
    return None if dataset.get('backend_args') or '://' in folder else folder


def summary(path: str, counts: Counter[str]) -> str:
    """Says in one line how much there is, and what is left out for which reason."""
    left_out = [
        f'{count} {reason}'
        for reason, count in counts.items()
        if reason not in ('images', 'annotations')
    ]
    return (
        f'{path}: {counts["annotations"]} annotations of {counts["images"]} images, '
        f'left out: {", ".join(left_out) or "none"}'
    )


def _check_files_of(dataset: dict) -> None:
    """Puts the check of files before the pipeline of a data set."""
    pipeline = dataset.get('pipeline') or []
    kinds = [type_name(step) for step in pipeline]
    if kinds and kinds[0] == 'LoadImageFromFile':
        check = dict(
            type='CheckFiles',
            labels='LoadAnnotations' in kinds,
            turned=is_turned_by(pipeline[0]),
        )
        dataset['pipeline'] = [check, *pipeline]


def is_turned_by(load: dict) -> bool:
    """Whether a `LoadImageFromFile` turns images as their EXIF data says."""
    decoder = load.get('imdecode_backend', 'cv2')
    colours = load.get('color_type', 'color')
    return decoder in ('cv2', 'pillow') and colours in ('color', 'grayscale')


def _check_work_dir(path: str) -> None:
    """Makes the work folder, and checks that files can be written there."""
    probe = Path(path) / f'.writable.{os.getpid()}'
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise LaunchError(
            f'cannot write to the work folder {path} ({error.strerror}): name another '
            'with --work-dir'
        ) from None


def check_weights(path: str) -> None:
    """Checks that a local file is a checkpoint, before anything is built.

    Raises:
        LaunchError: If there are no weights in it.
        pickle.UnpicklingError: If it holds code.
        BrokenCheckpointError: If it cannot be read.
    """
    if '://' not in path:
        weights_of(load_from_local(path, map_location='meta'), path)
