"""The states of the random number generators of torch, numpy and python."""

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Returns the states of a CPU's three generators, as safe loading allows them."""
    return dict(
        torch=torch.get_rng_state(),
        numpy=np.random.get_state(legacy=False),
        python=random.getstate(),
    )


def set_random_states(states: dict[str, Any]) -> None:
    """Puts back what ``random_states`` returned."""
    torch.set_rng_state(states['torch'].cpu())  # loading may have put them on a GPU
    np.random.set_state(states['numpy'])
    random.setstate(states['python'])


def seed_generators(*key: int) -> None:
    """Seeds a CPU's three generators from several numbers at once.

    A GPU's generator is left alone, unlike by ``torch.manual_seed``.

    Args:
        *key: From 0 up. Other numbers, or the same in another order, give other seeds.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    torch.default_generator.manual_seed(int.from_bytes(words[:2].tobytes(), 'little'))
    np.random.seed(words)
    random.seed(words.tobytes())
