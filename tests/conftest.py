"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

REPO = Path(__file__).resolve().parents[1]

# The suite draws the same examples every time. `pytest --hypothesis-profile soak` draws
# many and new ones.
settings.register_profile(
    'suite', derandomize=True, database=None, deadline=None, max_examples=220
)
settings.register_profile('soak', database=None, deadline=None, max_examples=1000)
settings.load_profile('suite')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder of small real data sets, named by ATTN_PLUGINS_DATA."""
    folder = Path(os.environ.get('ATTN_PLUGINS_DATA', REPO.parent / 'shared')) / 'data'
    if not folder.is_dir():
        pytest.skip('no real data: ATTN_PLUGINS_DATA names the folder that holds data/')
    return folder
