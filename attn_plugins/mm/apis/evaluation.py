"""What ``tools/test.py`` can do beyond computing metrics, as the frameworks' own do.

Their ``tools/test.py`` change the same settings for ``--tta``, ``--show-dir`` and
``--out``, each for its framework alone.
"""

import copy
import os

from mmengine.config import Config, ConfigDict

from ..datasets.settings import innermost, metrics_of, type_name
from ..engine.errors import LaunchError

# What the frameworks fall back on; mmseg's configs name their own.
_TTA_MODELS = {
    'mmdet': dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


def augment_test_time(cfg: Config) -> None:
    """Tests at the scales and flips of ``tta_pipeline``; without one, flipped too.

    Raises:
        LaunchError: If nobody says how to merge the predictions.
    """
    scope = cfg.get('default_scope')
    tta_model = cfg.get('tta_model') or _TTA_MODELS.get(scope)
    if tta_model is None:
        raise LaunchError(f'--tta needs tta_model in the config (scope {scope!r})')
    dataset = innermost(cfg.test_dataloader.dataset)
    dataset.pipeline = cfg.get('tta_pipeline') or _flipped(dataset.pipeline)
    cfg.model = ConfigDict(tta_model, module=cfg.model)


def _flipped(pipeline: list[dict]) -> list[dict]:
    *steps, pack = copy.deepcopy(pipeline)
    if 'meta_keys' in pack:
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def paint_predictions(cfg: Config, folder: str) -> None:
    """Writes every test image, painted with truth and prediction, to ``folder``.

    Raises:
        LaunchError: If the config has no hook that paints.
    """
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise LaunchError('--show-dir needs default_hooks.visualization in the config')
    hook.interval = 1
    kind = type_name(hook)
    if kind == 'SegVisualizationHook':
        hook.draw = True
        cfg.visualizer.save_dir = folder
    elif kind == 'DetVisualizationHook':
        hook.update(draw=True, test_out_dir=folder)
    else:  # mmpretrain's
        hook.update(enable=True, out_dir=folder)


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
    dataset = innermost(cfg.test_dataloader.dataset)
    if only and type_name(dataset) == 'CityscapesDataset':
        # The server wants label ids; IoUMetric writes the network's train ids.
        metric = ConfigDict(type='CityscapesMetric')
    kind = type_name(metric)
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
        dataset.pipeline = without_labels(dataset.pipeline)


def without_labels(steps: list) -> list:
    """Drops ``LoadAnnotations`` from a pipeline, nested ones included."""
    kept = []
    for step in steps:
        if isinstance(step, list):
            step = without_labels(step)
        elif 'transforms' in step:
            step = {**step, 'transforms': without_labels(step['transforms'])}
        # TestTimeAug runs the product of its lists, which an empty one makes empty.
        if step and type_name(step) != 'LoadAnnotations':
            kept.append(step)
    return kept
