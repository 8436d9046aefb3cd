"""``nn.Module`` layers: parameters, and between projections a call of a function.

Each gives its own maps, ``attention(x, ...)``. Imports torch and
``attn_plugins.functional`` alone.
"""

from .eamlp import (
    TokenBatchNorm,
    TokenExternalAttention,
    TokenMLP,
    TokenPerformer,
)
from .external import EANeck, ExternalAttention2d, MultiHeadExternalAttention
from .gsa import GlobalSelfAttention
from .lesa import LESA2d
from .self_attention import SelfAttention2d
from .term_weights import TermWeights

__all__ = [
    'EANeck',
    'ExternalAttention2d',
    'GlobalSelfAttention',
    'LESA2d',
    'MultiHeadExternalAttention',
    'SelfAttention2d',
    'TermWeights',
    'TokenBatchNorm',
    'TokenExternalAttention',
    'TokenMLP',
    'TokenPerformer',
]
