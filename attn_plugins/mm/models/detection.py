"""LESA-ResNet and GSA-ResNet for mmdetection."""

from mmdet.models.backbones.resnet import ResNet
from mmdet.registry import MODELS

from .gsa import make_gsa_resnet
from .lesa import make_lesa_resnet

REGISTERED = ('GSAResNet', 'LESAResNet')

GSAResNet = MODELS.register_module(module=make_gsa_resnet(ResNet, __name__))
LESAResNet = MODELS.register_module(module=make_lesa_resnet(ResNet, __name__))
