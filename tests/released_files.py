"""Stand-in weights for released checkpoints: they depend on key, shape and seed alone.

``data/released/NAME.json`` lists the keys and shapes of one released state dict;
``NAME.npz`` holds what the released code computed from the weights drawn here.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / 'data' / 'released'


def released_input(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    rng = np.random.default_rng([zlib.crc32(b'input'), seed])
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def released_outputs(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f'{name}.npz') as file:
        return dict(file)


def released_state_dict(name: str, seed: int = 0) -> dict[str, Tensor]:
    return {key: _draw(key, shape, seed) for key, shape in _layout(name).items()}


def thin_state_dict(name: str) -> dict[str, Tensor]:
    """The same keys with one input channel each: small, and enough to be recognised."""
    return {
        key: _draw(
            key, shape if 'relative' in key else (*shape[:1], *(1,) * len(shape[1:])), 0
        )
        for key, shape in _layout(name).items()
    }


def _layout(name: str) -> dict[str, tuple[int, ...]]:
    layout = json.loads((FOLDER / f'{name}.json').read_text())
    return {key: tuple(shape) for key, shape in layout.items()}


def _draw(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    rng = np.random.default_rng([zlib.crc32(key.encode()), seed])
    leaf = key.rpartition('.')[2]
    if leaf == 'num_batches_tracked':
        return torch.zeros((), dtype=torch.long)
    if leaf == 'flatten_index':  # (L * L,): key - query + L - 1, row = key
        place = np.arange(int(shape[0] ** 0.5))
        index = place[:, None] - place + len(place) - 1
        return torch.from_numpy(index.reshape(-1))
    if leaf == 'pos_embed':  # (1, N, C): the fixed sinusoid table
        place, channel = np.arange(shape[1])[:, None], np.arange(shape[2])[None, :]
        angle = place / 10000 ** (2 * (channel // 2) / shape[2])
        values = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
        return torch.from_numpy(values.astype(np.float32)[None])
    if leaf == 'running_var':
        values = rng.uniform(0.5, 1.5, shape)
    elif leaf == 'weight' and len(shape) == 1:  # of a norm
        values = rng.uniform(0.5, 1.0, shape)
    elif leaf == 'weight':
        values = rng.standard_normal(shape) * int(np.prod(shape[1:])) ** -0.5
    elif leaf in ('bias', 'running_mean'):
        values = 0.1 * rng.standard_normal(shape)
    else:  # bare parameters: position tables
        values = 0.2 * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32).reshape(shape))
