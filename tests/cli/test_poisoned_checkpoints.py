"""A checkpoint with code in it is refused by every tool, and the code never runs."""

import functools
import os
import pickle
import runpy
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

import attn_plugins.__main__
from attn_plugins.mm.engine.loading import load_from_local

REPO = Path(__file__).resolve().parents[2]
CONFIG = str(REPO / 'configs/eanet_r18_demo.py')
OPTIONS = ['train_cfg.max_iters=1', 'train_dataloader.batch_size=2']


class Poison:
    """Pickles as a call of ``os.system``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Four images with labels, a poisoned checkpoint, and a work folder with one."""
    folder = tmp_path_factory.mktemp('poisoned')
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind, shape in (('images', (60, 80, 3)), ('annotations', (60, 80))):
            (folder / kind / split).mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(1, 15, shape, dtype=np.uint8)
                suffix = 'png' if kind == 'annotations' else 'jpg'
                path = folder / kind / split / f'{index}.{suffix}'
                Image.fromarray(pixels).save(path)
    poison = Poison(folder / 'the_code_ran')
    content = dict(state_dict={'weight': torch.ones(1)}, meta={}, extra=poison)
    torch.save(content, folder / 'poisoned.pth')
    (folder / 'work').mkdir()
    shutil.copy(folder / 'poisoned.pth', folder / 'work/iter_1.pth')
    (folder / 'work/last_checkpoint').write_text(str(folder / 'work/iter_1.pth'))
    shutil.copy(CONFIG, folder / 'work/eanet_r18_demo.py')
    text = (folder / 'work/eanet_r18_demo.py').read_text()
    base = str(REPO / 'configs/eanet_r101_ade20k.py')
    text = text.replace('./eanet_r101_ade20k.py', base)
    (folder / 'work/eanet_r18_demo.py').write_text(text)
    return folder


@pytest.fixture
def refuses(folder, monkeypatch):
    """Runs a tool in this process; returns the line that it ends with."""

    # That of an earlier test may write to a folder that is gone.
    monkeypatch.setattr(SegLocalVisualizer, '_instance_dict', OrderedDict())

    def run(tool: str, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        command = [tool] if tool.endswith('.py') else ['attn_plugins', tool]
        monkeypatch.setattr(sys, 'argv', [*command, *arguments])
        script = str(REPO / 'tools' / tool)
        run = functools.partial(runpy.run_path, script, run_name='__main__')
        with pytest.raises(SystemExit) as stop:
            (run if tool.endswith('.py') else attn_plugins.__main__.main)()
        assert not (folder / 'the_code_ran').exists()
        return str(stop.value.code)

    return run


TRAIN = ['train.py', CONFIG, '--data-root', '.', '--work-dir']
IMAGE = 'images/training/0.jpg'
TOOLS = {
    'train, load_from': [
        *TRAIN, 'w1', '--cfg-options', *OPTIONS, 'load_from=poisoned.pth'
    ],
    'train, Pretrained': [
        *TRAIN, 'w2', '--cfg-options', *OPTIONS,
        'model.backbone.init_cfg.type=Pretrained',
        'model.backbone.init_cfg.checkpoint=poisoned.pth',
    ],
    'train, resume the last': [*TRAIN, 'work', '--resume', '--cfg-options', *OPTIONS],
    'train, resume this': [
        *TRAIN, 'w3', '--resume', 'poisoned.pth', '--cfg-options', *OPTIONS
    ],
    'test': [
        'test.py', CONFIG, 'poisoned.pth', '--data-root', '.', '--work-dir', 'w4'
    ],
    'predict': ['predict', IMAGE, CONFIG, 'poisoned.pth', '--out', 'p'],
    'maps': ['maps', IMAGE, CONFIG, 'poisoned.pth', '--out', 'v'],
    'export': [
        'export', CONFIG, 'poisoned.pth', '--format', 'torchscript', '--out', 'e.pt'
    ],
    'convert': ['convert', 'poisoned.pth', 'converted.pth'],
    'report': ['report', 'work', '--images', IMAGE],
}  # fmt: skip


@pytest.mark.parametrize('command', TOOLS.values(), ids=TOOLS)
def test_every_tool_refuses_code(command, refuses):
    line = refuses(*command)
    assert f'{command[0]}: error: ' in line
    assert 'is refused: it asks for ' in line
    assert 'system, which is not on the safe list' in line
    assert '\n' not in line


def test_the_checkpoint_would_run_its_code_elsewhere(folder, tmp_path):
    """The test above is worth something: plain unpickling does run it."""
    marker = tmp_path / 'ran'
    pickle.loads(pickle.dumps(Poison(marker)))
    assert marker.exists()


def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    """mmengine's resume hands ``meta['config']`` to its Python reader of configs."""
    meta = dict(config='import os; os.system("touch ran")', epoch=3)
    torch.save(dict(state_dict={}, meta=meta), tmp_path / 'c.pth')
    assert load_from_local(str(tmp_path / 'c.pth'))['meta'] == dict(epoch=3)
