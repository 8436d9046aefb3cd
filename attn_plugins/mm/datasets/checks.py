"""What is checked before a run, and by hooks of its runner while it runs.

Nothing here changes the config: what a runner writes to its work folder is what the
user wrote.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, init_default_scope
from mmengine.runner import Runner

from ..engine.checkpoint_fit import weights_of
from ..engine.errors import ConfigError, DataError, LaunchError
from ..engine.loading import load_from_local
from ..engine.processes import is_first_process
from .coco import check_coco
from .image_files import check_label_map, image_sizes, label_count
from .settings import datasets_of, metrics_of, type_name

MOST_FILES = 20_000  # images of a data set looked at before a run: 4 s
Sample = tuple[str, str | None]  # paths of an image and its label map


def check_run(cfg: Config, *splits: str) -> None:
    """Checks data, work folder and weights before a run.

    Args:
        cfg: The config, which is only read.
        *splits: 'train', 'val' and 'test', those that are going to be used.

    Raises:
        LaunchError: If data are missing, the work folder cannot be written to, or
            ``load_from`` holds no weights.
        ConfigError: If a segmentor has other classes than its data.
        DataError: If annotations or image files are broken.
        BrokenCheckpointError: If ``load_from`` cannot be read.
        pickle.UnpicklingError: If it holds code.
    """
    check_data(cfg, *splits)
    _check_writable(cfg.work_dir)
    if cfg.get('load_from'):
        check_weights(cfg.load_from)
    for dataset in datasets_of(cfg, *splits) if is_first_process() else ():
        broken = list(broken_files(list_samples(dataset, cfg, MOST_FILES)))
        if broken:
            more = f' ({len(broken) - 1} more: see `python -m attn_plugins check`)'
            raise DataError(broken[0] + more * (len(broken) > 1))


def add_checks(runner: Runner, *, training: bool) -> None:
    """Registers hooks that check weights, labels, losses and classes during a run.

    The frameworks' own where they have them. A runner has written its config by now,
    which therefore does not hold them.
    """
    cfg, scope = runner.cfg, runner.cfg.get('default_scope')
    whole = not training or bool(runner._resume)
    kinds = [dict(type='CheckWeightsHook', whole=whole)]
    if training and scope == 'mmdet':
        kinds.append(dict(type='mmdet.CheckInvalidLossHook', interval=1))
    elif training:
        kinds.append(dict(type='CheckBatchHook'))
    # Not mmpretrain's ClassNumCheckHook, which refuses losses without `num_classes`.
    if scope == 'mmdet' and _has_plain_classes(cfg):
        kinds.append(dict(type='mmdet.NumClassCheckHook'))
    present = {type(hook) for hook in runner.hooks}
    for hook in map(HOOKS.build, kinds):
        if type(hook) not in present:
            runner.register_hook(hook, priority='VERY_HIGH')  # before one that saves


def _has_plain_classes(cfg: Config) -> bool:
    """Whether mmdet's hook can compare classes of model and data."""
    # Here classes are words, or things and stuff have heads of their own.
    kinds = map(type_name, datasets_of(cfg, 'train', 'val'))
    return not cfg.model.get('language_model') and 'Panoptic' not in ' '.join(kinds)


def check_data(cfg: Config, *splits: str) -> None:
    """Checks that every folder and list file that the data sets name is there.

    Folders of label maps need not be where the pipeline reads none.

    Args:
        cfg: The config.
        *splits: 'train', 'val' and 'test', those that are going to be used.

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
        labels = not dataset.get('pipeline') or 'Annotation' in str(dataset.pipeline)
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


def _check_writable(folder: str) -> None:
    """Makes the work folder, and checks that files can be written there."""
    probe = Path(folder) / f'.writable.{os.getpid()}'
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise LaunchError(
            f'cannot write to the work folder {folder} ({error.strerror}): name '
            'another with --work-dir'
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


def list_samples(settings: dict, cfg: Config, most: int | None = None) -> list[Sample]:
    """Lists the files of a data set as its framework does, after its annotations.

    Args:
        settings: The innermost part of a config that makes the data set.
        cfg: The whole config.
        most: Number of samples that should be enough; None for all.

    Returns:
        Paths of images on this machine, and of their label maps; nothing if the
        pipeline reads images in its own way.

    Raises:
        ConfigError: If a segmentor has other classes than the data.
        DataError: If annotations are broken, empty or of other classes, or if there are
            no images, or images without labels.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    name, steps = type_name(settings), settings.get('pipeline') or []
    images = _coco_images(settings) if name == 'CocoDataset' else None
    if not steps or type_name(steps[0]) != 'LoadImageFromFile':
        return []
    if images is None:
        samples = _built_samples(settings, cfg, most)
    else:
        samples = [(path, None) for path in images]
    if 'LoadAnnotations' not in str(steps):
        samples = [(image, None) for image, _ in samples]
    paths = [path for sample in samples for path in sample if path]
    # Listing folders is far faster than asking for each file.
    folders = {os.path.dirname(path) for path in paths}
    there = {f: set(os.listdir(f)) for f in folders if os.path.isdir(f)}
    missing = [
        p for p in paths if os.path.basename(p) not in there.get(os.path.dirname(p), ())
    ]
    if missing:
        raise DataError(
            f'{name} names {len(missing)} of {len(paths)} files that are not there, '
            f'the first is {missing[0]}'
        )
    return samples[:: _step(len(samples), most, name)]


def _step(count: int, most: int | None, name: str) -> int:
    """Spreads few samples over many, and says so."""
    step = math.ceil(count / (most or count or 1)) or 1
    if step > 1:
        print(
            f'{name}: looked at one in {step} of {count} images, '
            '`python -m attn_plugins check` looks at all',
            file=sys.stderr,
        )
    return step


def _coco_images(settings: dict) -> list[str]:
    root = settings.get('data_root') or ''
    path = os.path.join(root, settings['ann_file'])
    if not os.path.isfile(path):
        return []  # it is on another machine
    kind = settings['type']
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    given = {**getattr(kind, 'METAINFO', {}), **(settings.get('metainfo') or {})}
    classes = given.get('classes')
    steps = [step for step in settings.get('pipeline') or [] if type_name(step)]
    names, summary = check_coco(
        path,
        None if isinstance(classes, str) else classes,  # the name of a file
        with_mask=any(step.get('with_mask') for step in steps),
        may_be_empty=not (settings.get('filter_cfg') or {}).get('filter_empty_gt'),
    )
    print(summary, file=sys.stderr)
    prefix = settings.get('data_prefix') or {}
    folder = os.path.join(root, prefix.get('img', ''))
    if settings.get('backend_args') or '://' in folder:
        return []
    return [os.path.join(folder, name) for name in names]


def _built_samples(settings: dict, cfg: Config, most: int | None) -> list[Sample]:
    name = type_name(settings)
    try:
        dataset = DATASETS.build({**settings, 'pipeline': []})
        count = len(dataset)
        info = getattr(dataset, 'get_data_info', lambda index: {})
        infos = [info(index) for index in range(0, count, _step(count, most, name))]
        problem = '' if count else 'none'
    except (IndexError, RuntimeError, ValueError) as error:
        problem = str(error).splitlines()[0]
    if problem:
        raise DataError(
            f'{name} has no images that it can read ({problem}): expected them in '
            f'{settings.get("data_root")} {settings.get("data_prefix") or ""}, with '
            f'img_suffix {settings.get("img_suffix", "of the data set")}, or by their '
            f'names in {settings.get("ann_file") or "ann_file"}'
        )
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes:
        _check_heads(cfg.get('model') or {}, classes, name)
    paths = [(info.get('img_path'), info.get('seg_map_path')) for info in infos]
    here = not settings.get('backend_args')
    return [p for p in paths if here and isinstance(p[0], str) and '://' not in p[0]]


def _check_heads(model: dict, classes: Sequence[str], name: str) -> None:
    """Checks the heads of a segmentor; mmdet and mmpretrain have hooks for theirs."""
    heads = [('decode_head', head) for head in _listed(model.get('decode_head'))]
    # Auxiliary heads of other kinds may learn edges, say.
    heads += [
        ('auxiliary_head', head)
        for head in _listed(model.get('auxiliary_head'))
        if type_name(head) == 'FCNHead'
    ]
    for place, head in [] if model.get('text_encoder') else heads:
        count = head.get('num_classes')
        if count and label_count(count, head.get('out_channels')) != len(classes):
            raise ConfigError(
                f'model.{place} has num_classes={count} and the data set {name} '
                f'{len(classes)} classes ({", ".join(classes[:4])}, ...): set '
                'num_classes of the heads, or classes in its metainfo'
            )


def _listed(part: object) -> Sequence:
    return part if isinstance(part, list | tuple) else [part] if part else []


def broken_files(samples: Iterable[Sample]) -> Iterator[str]:
    """Says of each broken image or label map, in one line, what is wrong with it."""
    for image, labels in samples:
        try:
            sizes = image_sizes(image)
            if labels:
                check_label_map(labels, sizes)
        except (DataError, OSError) as error:
            yield str(error)
