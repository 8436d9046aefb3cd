"""Whether a model is being exported, which takes one formulation for every map size.

What is done for speed or memory depends on the size of the map: blocks of queries,
folding, the cut of a table. An export records one way through the code, so there the
functions take the plain formulation, in operators that every format has.
"""

import torch


def is_exporting() -> bool:
    """Tells whether ``torch.export`` or ``torch.jit.trace`` records what runs now."""
    # What `torch.compiler.is_exporting()` returns: in code that is compiled, older
    # releases take that call for true.
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()
