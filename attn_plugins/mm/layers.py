"""Registers the host-free layers, necks, hooks and loops in mmengine's root registries.

Every host looks a name up there after its own registry, so one registration serves all.
"""

from mmengine.registry import MODELS

from .. import modules
from ..checkpoints.loading import install_safe_loading
from . import checking, hooks, loops, saving
from .base_configs import find_base_configs
from .norms import takes_norm_cfg

LAYERS = (
    'EANeck',
    'ExternalAttention2d',
    'GlobalSelfAttention',
    'LESA2d',
    'MultiHeadExternalAttention',
    'SelfAttention2d',
)

REGISTERED = (
    *LAYERS,
    *checking.REGISTERED,
    *hooks.REGISTERED,
    *loops.REGISTERED,
    *saving.REGISTERED,
)

for name in LAYERS:
    layer = getattr(modules, name)
    has_norm = layer is not modules.MultiHeadExternalAttention
    MODELS.register_module(module=takes_norm_cfg(layer) if has_norm else layer)
install_safe_loading()
find_base_configs()
