"""Registers the host-free layers and necks in mmengine's root registry.

Every host looks a name up there after its own registry, so one registration serves all.
"""

from mmengine.registry import MODELS

from ... import modules
from .norms import takes_norm_cfg

REGISTERED = (
    'EANeck',
    'ExternalAttention2d',
    'GlobalSelfAttention',
    'LESA2d',
    'MultiHeadExternalAttention',
    'SelfAttention2d',
)

for name in REGISTERED:
    layer = getattr(modules, name)
    has_norm = layer is not modules.MultiHeadExternalAttention
    MODELS.register_module(module=takes_norm_cfg(layer) if has_norm else layer)
