"""What property-based tests draw: arguments, right and wrong, and awkward tensors."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st

# None of them is a size, a choice or a flag.
WRONG = st.sampled_from([0, -1, -7, 2.5, '4', 'doubel', [3], float('nan')])
SIZES = st.integers(1, 6)


@st.composite
def arguments(draw, **strategies: st.SearchStrategy) -> tuple[dict, str | None]:
    """Draws arguments, of which at times one is wrong, and the name of that one."""
    drawn = {name: draw(strategy) for name, strategy in strategies.items()}
    wrong = draw(st.sampled_from([None] * len(strategies) + sorted(strategies)))
    if wrong:
        drawn[wrong] = draw(WRONG)
    return drawn, wrong


@st.composite
def tensors(draw, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draws a tensor: zeros, tiny or plain numbers, contiguous in memory or not."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    numbers = torch.randn(shape, dtype=dtype, generator=generator)
    numbers = numbers * draw(st.sampled_from([0.0, 1e-6, 1.0, 1.0, 2.0]))
    layouts = ['plain', 'transposed', 'strided', 'expanded']
    layout = draw(st.sampled_from(layouts)) if shape else 'plain'
    if layout == 'transposed':
        return numbers.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == 'strided':
        return numbers.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == 'expanded':
        return numbers[:1].expand(shape)
    return numbers


def result_or_value_error(call: Callable, possible: bool):
    """Returns what ``call`` returns, or None if it refuses what is not possible."""
    try:
        result = call()
    except ValueError:
        if possible:
            raise
        return None
    assert possible, 'it should have been refused'
    return result
