"""LESA-ResNet and GSA-ResNet for mmdetection."""

from mmdet.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmdet.registry import MODELS

from .gsa import GSAStages, depths_of_gsa
from .lesa import LESAStages
from .resnet import Recomputed

REGISTERED = ('GSAResNet', 'LESAResNet')


class RecomputedBasicBlock(Recomputed, BasicBlock):
    """mmdet's BasicBlock; ``with_cp`` moves its running statistics once."""


class RecomputedBottleneck(Recomputed, Bottleneck):
    """mmdet's Bottleneck; ``with_cp`` moves its running statistics once."""


class WideBottleneck(RecomputedBottleneck):
    """A bottleneck of a Wide ResNet: its 3x3 has half of the output's channels."""

    expansion = 2


RECOMPUTED = {BasicBlock: RecomputedBasicBlock, Bottleneck: RecomputedBottleneck}


@MODELS.register_module()
class LESAResNet(LESAStages, ResNet):
    __doc__ = LESAStages.__doc__
    recomputed_blocks = RECOMPUTED
    wide_bottleneck = WideBottleneck


@MODELS.register_module()
class GSAResNet(GSAStages, ResNet):
    __doc__ = GSAStages.__doc__
    recomputed_blocks = RECOMPUTED
    arch_settings = depths_of_gsa(ResNet)
