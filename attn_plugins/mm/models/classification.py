"""LESA-ResNet, GSA-ResNet and EAMLP for mmpretrain."""

from mmpretrain.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmpretrain.registry import MODELS

from . import eamlp  # noqa: F401 (registers EAMLP)
from .gsa import GSAStages, depths_of_gsa
from .lesa import LESAStages
from .resnet import Recomputed

REGISTERED = ('EAMLP', 'GSAResNet', 'LESAResNet')


class RecomputedBasicBlock(Recomputed, BasicBlock):
    """mmpretrain's BasicBlock; ``with_cp`` moves its running statistics once."""


class RecomputedBottleneck(Recomputed, Bottleneck):
    """mmpretrain's Bottleneck; ``with_cp`` moves its running statistics once."""


RECOMPUTED = {BasicBlock: RecomputedBasicBlock, Bottleneck: RecomputedBottleneck}


@MODELS.register_module()
class LESAResNet(LESAStages, ResNet):
    __doc__ = LESAStages.__doc__
    recomputed_blocks = RECOMPUTED


@MODELS.register_module()
class GSAResNet(GSAStages, ResNet):
    __doc__ = GSAStages.__doc__
    recomputed_blocks = RECOMPUTED
    arch_settings = depths_of_gsa(ResNet)
