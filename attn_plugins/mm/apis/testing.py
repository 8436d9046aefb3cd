"""What ``tools/test.py`` can do beyond computing metrics, as changes of a config.

Everything is mmengine's, mmseg's and mmdet's own: metrics that write files, hooks that
paint, models that merge augmented predictions.
"""

import copy
import os
from collections.abc import Callable

from mmengine.config import Config, ConfigDict

from .launch import LaunchError, metrics_of

# mmseg's configs name their own; these are what the other hosts' test scripts fall back
# on.
_TTA_MODELS = {
    'mmdet': dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


def augment_test_time(cfg: Config) -> None:
    """Tests at the scales and flips of ``tta_pipeline``; without one, flipped too."""
    scope = cfg.get('default_scope')
    tta_model = cfg.get('tta_model') or _TTA_MODELS.get(scope)
    if tta_model is None:
        raise LaunchError(f'--tta needs tta_model in the config (scope {scope!r})')
    dataset = _innermost(cfg.test_dataloader.dataset)
    dataset.pipeline = cfg.get('tta_pipeline') or _flipped(dataset.pipeline)
    cfg.model = ConfigDict(tta_model, module=cfg.model)


def _name(cfg: dict) -> str:
    """Returns the type of a config without its scope."""
    return cfg['type'].rpartition('.')[2]


def _innermost(dataset: ConfigDict) -> ConfigDict:
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def _flipped(pipeline: list[dict]) -> list[dict]:
    *steps, pack = copy.deepcopy(pipeline)
    if 'meta_keys' in pack:
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def paint_predictions(cfg: Config, folder: str) -> None:
    """Writes every test image, painted with truth and prediction, to ``folder``."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise LaunchError('--show-dir needs default_hooks.visualization in the config')
    hook.interval = 1
    kind = _name(hook)
    if kind == 'SegVisualizationHook':
        hook.draw = True
        cfg.visualizer.save_dir = folder
    elif kind == 'DetVisualizationHook':
        hook.draw = True
        hook.test_out_dir = folder
    else:  # mmpretrain's
        hook.enable = True
        hook.out_dir = folder


def dump_predictions(cfg: Config, path: str) -> None:
    """Also writes the raw predictions to the pickle file ``path``."""
    in_mmdet = cfg.get('default_scope') == 'mmdet'
    # mmdet's own stores masks run-length encoded.
    dump = dict(
        type='DumpDetResults' if in_mmdet else 'DumpResults', out_file_path=path
    )
    cfg.test_evaluator = [*metrics_of(cfg, 'test'), dump]


def format_results(cfg: Config, folder: str, *, only: bool) -> None:
    """Writes predictions as the data set's test server wants them.

    Label maps for segmentation, ADE20K's counted from 1, Cityscapes' with label ids if
    ``only``, else with the train ids that its metric compares; ``results.*.json`` for
    COCO detection.

    Args:
        cfg: The config.
        folder: Where to write.
        only: Compute no metrics, and load no label maps. COCO's annotation file is
            needed all the same: it lists the images.

    Raises:
        LaunchError: If the config's metric cannot write files.
    """
    metric, *more = metrics_of(cfg, 'test')
    if more:
        raise LaunchError('--out DIR needs a single test_evaluator')
    dataset = _innermost(cfg.test_dataloader.dataset)
    if only and _name(dataset) == 'CityscapesDataset':
        # The server wants label ids; IoUMetric writes the network's train ids.
        metric = ConfigDict(type='CityscapesMetric')
    kind = _name(metric)
    if kind == 'IoUMetric':
        metric.update(output_dir=folder, format_only=only)
    elif kind == 'CityscapesMetric':
        metric.update(output_dir=folder, format_only=only, keep_results=True)
    elif kind == 'CocoMetric':
        metric.update(outfile_prefix=os.path.join(folder, 'results'), format_only=only)
    else:
        raise LaunchError(
            '--out DIR writes files through IoUMetric, CityscapesMetric or CocoMetric, '
            f'and test_evaluator is {kind}; --out FILE.pkl works with any'
        )
    cfg.test_evaluator = metric
    if only:
        dataset.pipeline = update_transforms(
            dataset.pipeline,
            lambda step: None if step['type'] == 'LoadAnnotations' else step,
        )


def update_transforms(pipeline: list, change: Callable[[dict], dict | None]) -> list:
    """Rebuilds a pipeline, nested ones included; None drops a transform."""
    changed = []
    for step in pipeline:
        if isinstance(step, list):
            nested = update_transforms(step, change)
            # TestTimeAug runs the product of its lists, which an empty one makes empty.
            changed += [nested] if nested else []
            continue
        step = change(dict(step))
        if step is not None:
            if 'transforms' in step:
                step['transforms'] = update_transforms(step['transforms'], change)
            changed.append(step)
    return changed
