"""Attention as functions: tensors in, tensors out, torch only.

Size letters used throughout::

    B  batch            C  channels          D  width of keys or values
    H, W  map size      N  = H * W, pixels   S  memory slots     h  heads

``reference`` is the specification: slow, obvious loops. Everything else is tested
against it, in values and in every gradient.
"""

from .external import (
    eanet_block,
    external_attention,
    external_attention_block,
    fold_projections,
    normalize_logits,
    product_moments,
    slot_attention,
)
from .gsa import (
    axial_attention,
    axial_position_attention,
    content_attention,
    position_keys,
)
from .lesa import (
    content_moments,
    context_attention,
    flat_attention,
    flat_similarities,
    flat_values,
    own_weight,
    position_moments,
    relative_attention,
)
from .performer import performer_attention
from .relpos import resize_table
from .self_attention import self_attention

__all__ = [
    'axial_attention',
    'axial_position_attention',
    'content_attention',
    'content_moments',
    'context_attention',
    'eanet_block',
    'external_attention',
    'external_attention_block',
    'flat_attention',
    'flat_similarities',
    'flat_values',
    'fold_projections',
    'normalize_logits',
    'own_weight',
    'performer_attention',
    'position_keys',
    'position_moments',
    'product_moments',
    'relative_attention',
    'resize_table',
    'self_attention',
    'slot_attention',
]
