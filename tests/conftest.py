"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tool_runs import draw_scenes, train_demo

REPO = Path(__file__).resolve().parents[1]

if 'PYTEST_XDIST_WORKER' in os.environ:
    # Workers share the cores. What they start inherits the variable.
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)

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
def demo_data(tmp_path_factory) -> Path:
    """Four drawn scenes to train on and two to validate on, of 60 x 80 pixels."""
    folder = tmp_path_factory.mktemp('demo') / 'data'
    draw_scenes(folder)
    return folder


@pytest.fixture(scope='session')
def demo_run(demo_data, tmp_path_factory) -> Path:
    """The work folder of two iterations of the demo and a validation: do not write."""
    pytest.importorskip('mmseg')
    work_dir = tmp_path_factory.mktemp('demo_run')
    train_demo(demo_data, work_dir, 2)
    return work_dir


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder of small real data sets, named by ATTN_PLUGINS_DATA."""
    folder = Path(os.environ.get('ATTN_PLUGINS_DATA', REPO.parent / 'shared')) / 'data'
    if not folder.is_dir():
        pytest.skip('no real data: ATTN_PLUGINS_DATA names the folder that holds data/')
    return folder
