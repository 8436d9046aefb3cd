"""Hooks for mmengine's runner."""

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...modules.term_weights import TermWeights

REGISTERED = ('TermWeightHook',)


@HOOKS.register_module()
class TermWeightHook(Hook):
    """Reports, at validation and test, what LESA layers owe to which term.

    It logs the share of the unary (local) and the binary (context) term of each layer
    and their average (LESA, arXiv 2107.05637, Tables 1 and 2), as ``unary/LAYER`` and
    ``unary/average`` beside the metrics, in all of the run's loggers::

        custom_hooks = [dict(type='TermWeightHook')]

    Args:
        without_unary: Evaluates self-attention without what each pixel takes from
            itself, the remaining weights unchanged: the second row of Table 1. Only
            for models whose layers are of the variant 'attention'.

    Raises:
        ValueError: At the first validation or test, if the model has no LESA layer, or
            ``without_unary`` meets a layer with a local term of its own.
    """

    # After the evaluation, before the metrics are logged.
    priority = 'NORMAL'

    def __init__(self, without_unary: bool = False) -> None:
        self.without_unary = without_unary

    def before_val_epoch(self, runner: Runner) -> None:
        model = runner.model
        self.weights = TermWeights(model.module if is_model_wrapper(model) else model)
        self._leave_out_unary(self.without_unary)
        self.weights.__enter__()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._report(runner, 'val')

    def before_test_epoch(self, runner: Runner) -> None:
        self.before_val_epoch(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._report(runner, 'test')

    def _leave_out_unary(self, without: bool) -> None:
        for name, layer in self.weights.layers.items():
            if without and layer.variant != 'attention':
                raise ValueError(
                    "without_unary=True is for self-attention (variant='attention'), "
                    f'got the layer {name} of variant={layer.variant!r}'
                )
            layer.context.without_unary = without

    def _report(self, runner: Runner, mode: str) -> None:
        self.weights.__exit__()
        self._leave_out_unary(False)
        names = list(self.weights.layers)
        # Every process has seen its own images.
        sums = torch.tensor([self.weights.sums[name] for name in names])
        counts = torch.tensor([self.weights.counts[name] for name in names])
        all_reduce(sums)
        all_reduce(counts)
        shares = dict(zip(names, (sums / counts).tolist(), strict=True))
        shares['average'] = sum(shares.values()) / len(shares)
        for name, share in shares.items():
            runner.message_hub.update_scalar(f'{mode}/unary/{name}', share)
        lines = [f'{"layer":<32} {"unary %":>8} {"binary %":>8}']
        lines += [
            f'{name:<32} {100 * share:8.2f} {100 - 100 * share:8.2f}'
            for name, share in shares.items()
        ]
        runner.logger.info('weights of the terms\n' + '\n'.join(lines))
