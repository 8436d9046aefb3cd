"""Attention as functions: tensors in, tensors out, torch only.

Size letters used throughout::

    B  batch            C  channels          D  width of keys or values
    H, W  map size      N  = H * W, pixels   S  memory slots     h  heads

``reference`` is the specification: slow, obvious loops. Everything else is tested
against it, in values and in every gradient.
"""

from .external import (
    add_attended,
    external_attention,
    external_attention_block,
    fold_projections,
    normalize_logits,
    product_moments,
    slot_attention,
)
from .self_attention import self_attention

__all__ = [
    'add_attended',
    'external_attention',
    'external_attention_block',
    'fold_projections',
    'normalize_logits',
    'product_moments',
    'self_attention',
    'slot_attention',
]
