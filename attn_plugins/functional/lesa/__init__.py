"""LESA's context term: self-attention with relative positions, in linear memory.

Source: Yang et al., "Locally Enhanced Self-Attention: Combining Self-Attention and
Convolution as Local and Context Terms", arXiv 2107.05637, eq. 1; relative positions on
the query as for detection (section 4.2), and batch norm on the two similarity terms::

    logits_ij = BN_1(q_i . k_j) + BN_2(q_i . (rel_h[y_j - y_i] + rel_w[x_j - x_i]))

The paper's limitation is the N x N similarity. It is not needed, in training either:

* A batch norm's mean and shift are the same for all keys of a query, so the softmax
  over keys drops them; only the two scales matter.
* The statistics that give those scales have closed forms (``moments``).
* With the scales multiplied into keys and tables (``context``), relative attention
  works on a few queries at a time and forgets their similarities (``blocks``).

``weights`` has single rows, and the diagonal, of the attention; ``flat`` is the form
for ImageNet.
"""

from .blocks import relative_attention
from .context import context_attention, scale_similarities
from .flat import flat_attention, flat_similarities, flat_values
from .moments import content_moments, position_moments
from .weights import own_weight, query_weights

__all__ = [
    'content_moments',
    'context_attention',
    'flat_attention',
    'flat_similarities',
    'flat_values',
    'own_weight',
    'position_moments',
    'query_weights',
    'relative_attention',
    'scale_similarities',
]
