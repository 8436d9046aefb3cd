"""Attention as functions: tensors in, tensors out, torch only.

Size letters used throughout::

    B  batch            C  channels          D  width of keys or values
    H, W  map size      N  = H * W, pixels   S  memory slots     h  heads

``reference`` is the specification: slow, obvious loops. Everything else is tested
against it, in values and in every gradient.
"""

from .external import external_attention, external_attention_block, normalize_logits

__all__ = ['external_attention', 'external_attention_block', 'normalize_logits']
