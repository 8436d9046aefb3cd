"""A pytest plugin: what mmseg's own tests import from mmseg are classes of ours.

``SUBJECT`` in the environment says which. The files of the tests stay as they are.
"""

import functools
import os
from collections.abc import Callable

import mmseg.models
import torchvision
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.models.backbones import resnet
from mmseg.models.decode_heads import decode_head
from mmseg.registry import MODELS
from torch import nn

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.mm.models.segmentation import RECOMPUTED, EAHead


class HostsError(KeyError, AssertionError):
    """What mmseg raises where our classes raise ValueError, with a better message."""


def as_mmseg_would(make, *args, **kwargs) -> nn.Module:
    try:
        return make(*args, **kwargs)
    except ValueError as error:
        raise HostsError(*error.args) from error


class PositionalHead(EAHead):
    """As mmseg's base class is called; EAHead takes names alone."""

    def __init__(self, in_channels, channels, **kwargs) -> None:
        super().__init__(
            in_channels=in_channels, channels=channels, attn_channels=16, **kwargs
        )


class ExampleHead(PositionalHead):
    """The head of their segmentors: three channels."""

    def __init__(self, num_classes=19, out_channels=None, **kwargs) -> None:
        super().__init__(3, 3, num_classes=num_classes, out_channels=out_channels)


def lesa_resnet(*args, **options) -> nn.Module:
    """LESAResNet, but for the two things in which it cannot be a ResNet."""
    if 'zero_init_residual' in options:
        # By default LESA ends in norms of its own, in place of the block's `norm2`.
        options['attn'] = dict(variant='static')
    if options.get('norm_cfg', {}).get('type') == 'GN':
        # It computes the norm of the similarities without them, for batch norm alone.
        options['stage_with_attn'] = (False,) * 4
    return MODELS.get('LESAResNet')(*args, **options)


def swap_backbones(make: Callable[..., nn.Module]) -> None:
    make = functools.partial(as_mmseg_would, make)
    mmseg.models.backbones.ResNet = make
    mmseg.models.backbones.ResNetV1d = functools.partial(
        make, deep_stem=True, avg_down=True
    )


def swap_blocks() -> None:
    for block, recomputed in RECOMPUTED.items():
        setattr(resnet, block.__name__, recomputed)


def swap_heads() -> None:
    decode_head.BaseDecodeHead = PositionalHead


def pytest_collection_finish() -> None:
    """After their own have been registered."""
    MODELS.register_module('ExampleDecodeHead', module=ExampleHead, force=True)


# Their weights would be downloaded.
CheckpointLoader.register_scheme(
    'torchvision://',
    lambda *_: torchvision.models.resnet18().state_dict(),
    force=True,
)
SUBJECTS = {
    'LESAResNet': functools.partial(swap_backbones, lesa_resnet),
    'GSAResNet': functools.partial(swap_backbones, MODELS.get('GSAResNet')),
    'blocks': swap_blocks,
    'EAHead': swap_heads,
}
SUBJECTS[os.environ['SUBJECT']]()
