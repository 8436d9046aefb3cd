"""A hook that looks at each batch: labels, pixels and losses.

``tools/train.py`` registers it with its runner. For stock tools::

    custom_imports = dict(imports=['attn_plugins'])
    custom_hooks = [dict(type='CheckBatchHook')]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..engine.errors import DataError
from .image_files import check_labels, label_count

REGISTERED = ('CheckBatchHook',)


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
            key: torch.as_tensor(value).detach().float().mean().item()
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
