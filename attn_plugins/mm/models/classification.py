"""Backbones for mmpretrain."""

from mmpretrain.models.backbones.resnet import ResNet
from mmpretrain.registry import MODELS

from . import eamlp  # noqa: F401 (registers EAMLP)
from .gsa import make_gsa_resnet
from .lesa import make_lesa_resnet

REGISTERED = ('EAMLP', 'GSAResNet', 'LESAResNet')

GSAResNet = MODELS.register_module(module=make_gsa_resnet(ResNet, __name__))
LESAResNet = MODELS.register_module(module=make_lesa_resnet(ResNet, __name__))
