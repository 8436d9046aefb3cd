"""Whether a model is being exported, which takes one formulation for every map size.

What is done for speed or memory depends on the size of the map: blocks of queries,
folding, the cut of a table. An export records one way through the code, so there the
functions take the plain formulation, in operators that every format has.
"""

import torch


def is_exporting() -> bool:
    """Tells whether ``torch.export`` or ``torch.jit.trace`` records what runs now."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()
