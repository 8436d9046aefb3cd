"""Whether a checkpoint is the model's: mmengine loads what fits and only warns."""

import re
from typing import NoReturn

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .errors import LaunchError

REGISTERED = ('CheckWeightsHook',)
# What inference does not run: a checkpoint may have it or not.
NOT_RUN = ('auxiliary_head.', 'data_preprocessor.')


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Raises if the checkpoint that a runner has read does not match its model.

    Testing and resuming take all of it or nothing. Training from ``load_from`` takes
    what fits, which must be something.

    Args:
        whole: Whether all weights must fit.

    Raises:
        LaunchError: If not; it names the first keys that differ.
    """

    def __init__(self, whole: bool = True) -> None:
        self.whole = whole

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if isinstance(runner.model, FullyShardedDataParallel):
            return  # a process has parts of the tensors only
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        source = runner._load_from or 'the last checkpoint'
        check = fit_weights if self.whole else check_some_fit
        check(getattr(model, 'module', model), checkpoint, str(source))


def weights_of(checkpoint: object, source: str) -> dict[str, Tensor]:
    """Returns the weights in what a file held, without the prefix of a wrapper.

    Raises:
        LaunchError: If there are none.
    """
    weights = checkpoint
    if isinstance(checkpoint, dict):
        weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, dict) or not any(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise LaunchError(
            f'{source} holds no weights: expected a state_dict of tensors, '
            f'got {type(weights).__name__} {str(list(weights)[:3]) if weights else ""}'
        )
    return {key.removeprefix('module.'): value for key, value in weights.items()}


def fit_weights(model: nn.Module, checkpoint: object, source: str) -> None:
    """Loads weights into a model, all of them or none.

    Raises:
        LaunchError: If they do not fit; it names the first five differing keys.
    """
    weights = weights_of(checkpoint, source)
    try:
        found = model.load_state_dict(weights, strict=False)
    except ValueError as error:  # a table of positions that cannot be resized
        raise LaunchError(f'{source} does not fit the config: {error}') from None
    except RuntimeError as error:
        _refuse(source, _shape_differences(str(error)) or [str(error)])
    differences = [
        f'{key} is missing in the checkpoint'
        for key in found.missing_keys
        if not key.startswith(NOT_RUN) and not key.endswith('num_batches_tracked')
    ]
    differences += [
        f'{key} is not in the model'
        for key in found.unexpected_keys
        if not key.startswith(NOT_RUN)
    ]
    if differences:
        _refuse(source, differences)


def check_some_fit(model: nn.Module, checkpoint: object, source: str) -> None:
    """Checks that at least one tensor fits, as fine-tuning takes what does.

    Raises:
        LaunchError: If not.
    """
    weights, own = weights_of(checkpoint, source), model.state_dict()
    if not any(key in own and own[key].shape == w.shape for key, w in weights.items()):
        raise LaunchError(
            f'{source} has nothing for the model: none of its {len(weights)} tensors '
            f'({", ".join(list(weights)[:2])}, ...) has the name and the shape of one '
            f'of the model ({", ".join(list(own)[:2])}, ...)'
        )


def _shape_differences(message: str) -> list[str]:
    pattern = r'size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)'
    return [
        f'{key} is {theirs} in the checkpoint and {ours} in the model'
        for key, theirs, ours in re.findall(pattern, message)
    ]


def _refuse(source: str, differences: list[str]) -> NoReturn:
    count = len(differences)
    shown = '; '.join(differences[:5]) + (f'; and {count - 5} more' * (count > 5))
    raise LaunchError(
        f'{source} does not fit the config, {count} key(s) differ: {shown}'
    )
