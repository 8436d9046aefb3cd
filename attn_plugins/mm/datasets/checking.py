"""Checks while a model runs, by config: files as they are read, batches, weights.

``tools/train.py`` and ``tools/test.py`` add them by themselves. For stock tools::

    custom_imports = dict(imports=['attn_plugins'])
    custom_hooks = [dict(type='CheckBatchHook'), dict(type='CheckWeightsHook')]
    train_pipeline = [dict(type='CheckFiles'), dict(type='LoadImageFromFile'), ...]
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .dataset_checks import (
    DataError,
    check_image,
    check_label_map,
    check_labels,
    label_count,
)

REGISTERED = ('CheckBatchHook', 'CheckFiles', 'CheckWeightsHook')


@TRANSFORMS.register_module()
class CheckFiles:
    """Refuses a broken image, or a label map that does not belong to its image.

    It stands first in a pipeline and looks at the heads and ends of the files, which
    takes 0.2 ms for an image and its label map: an empty file, one that is no image,
    one that was cut off (OpenCV paints the rest grey), colours or numbers above 255 in
    the place of class indices, another size than the image's (resizing would hide it).

    Args:
        labels: Whether the label map is going to be read.
        turned: Whether the image is going to be turned as its EXIF data says.

    Raises:
        DataError: Naming the file.
    """

    def __init__(self, labels: bool = True, turned: bool = True) -> None:
        self.labels = labels
        self.turned = turned

    def __call__(self, results: Any) -> Any:
        if not isinstance(results, dict):
            return results  # an inferencer has its own input, an array say
        image, labels = results.get('img_path'), results.get('seg_map_path')
        size = check_image(image, self.turned) if _is_local(image) else None
        if self.labels and _is_local(labels):
            check_label_map(labels, size)
        return results

    def __repr__(self) -> str:
        return f'CheckFiles(labels={self.labels}, turned={self.turned})'


def _is_local(path: Any) -> bool:
    return isinstance(path, str) and os.path.isfile(path)  # others have loaders


@HOOKS.register_module()
class CheckBatchHook(Hook):
    """Stops training on labels that are no classes, and on a loss that is no number.

    Labels of segmentation and classification; mmdet makes its own from the names. Takes
    12 ms for 8 label maps of 512 x 1024, in the process of the model.

    Raises:
        DataError: Naming the files of the batch, and what is wrong.
    """

    priority = 'VERY_HIGH'  # before a checkpoint is written

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.num_classes, self.ignore_index = _classes(model)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        for image, sample in _samples(data_batch):
            name = sample.get('img_path') or 'an image'
            if image.is_floating_point() and not image.isfinite().all():
                raise DataError(f'{name} has pixels that are NaN or infinite')
            if self.num_classes is None:
                continue
            for field, path in (
                ('gt_sem_seg', sample.get('seg_map_path') or name),
                ('gt_label', name),
            ):
                if field in sample:
                    labels = sample.get(field)
                    labels = labels.data if field == 'gt_sem_seg' else labels
                    check_labels(
                        labels.cpu().numpy(), self.num_classes, self.ignore_index, path
                    )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        wrong = {
            key: float(np.asarray(torch.as_tensor(value).detach().cpu()).mean())
            for key, value in (outputs or {}).items()
            if not torch.as_tensor(value).isfinite().all()
        }
        if wrong:
            names = [sample.get('img_path') for _, sample in _samples(data_batch)]
            raise DataError(
                f'iteration {runner.iter + 1}: {wrong} is no finite number. Try a '
                'lower learning rate, clip_grad in optim_wrapper, or no half '
                f'precision; the images were {", ".join(map(str, names))}'
            )


def _samples(batch: Any) -> Iterator[tuple[Tensor, Any]]:
    if isinstance(batch, dict) and isinstance(batch.get('inputs'), Sequence | Tensor):
        yield from zip(batch['inputs'], batch.get('data_samples') or (), strict=False)


def _classes(model: nn.Module) -> tuple[int | None, int]:
    """Number of classes of a segmentor or classifier, and the label it ignores."""
    head = getattr(model, 'decode_head', getattr(model, 'head', None))
    if isinstance(head, nn.ModuleList):  # a cascade
        head = head[-1]
    ignored = getattr(head, 'ignore_index', None)
    classes = getattr(head, 'num_classes', None)
    if classes is not None:
        classes = label_count(classes, getattr(head, 'out_channels', None))
    return classes, -1 if ignored is None else ignored


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Refuses a checkpoint that is not the model's: mmengine would go on without.

    Testing and resuming take all of it or nothing. Training from ``load_from`` takes
    what fits, which must be something.

    Raises:
        LaunchError: Naming the first keys that differ.
    """

    def __init__(self, whole: bool = True) -> None:
        self.whole = whole

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # Here: `fitting` needs the tools' part, which this module's import must not.
        from .fitting import check_some_fit, fit_weights

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if isinstance(runner.model, FullyShardedDataParallel):
            return  # a process has parts of the tensors only
        source = runner._load_from or 'the last checkpoint'
        check = fit_weights if self.whole else check_some_fit
        check(getattr(model, 'module', model), checkpoint, str(source))
