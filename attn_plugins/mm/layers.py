"""Registers the host-free layers and necks in mmengine's root registry.

Every host looks a name up there after its own registry, so one registration serves all.
"""

from mmengine.registry import MODELS

from ..checkpoints.loading import install_safe_loading
from ..modules import EANeck, ExternalAttention2d
from .norms import takes_norm_cfg

REGISTERED = ('EANeck', 'ExternalAttention2d')

for module in (EANeck, ExternalAttention2d):
    MODELS.register_module(module=takes_norm_cfg(module))
install_safe_loading()
