"""Classifiers at reduced size learn a drawn image set, validate and resume."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmpretrain')

REPO = Path(__file__).resolve().parents[2]
COLOURS = dict(
    blue=(60, 60, 200), green=(60, 200, 60), red=(200, 60, 60), yellow=(200, 200, 60)
)
CHANCE = 100 / len(COLOURS)
EPOCHS, ITERATIONS = 12, 10  # of an epoch

# Narrower (and shallower), for images of 32 x 32. Augmentations, loss and optimiser are
# the configs' own. The average of EAMLP's weights forgets faster, as befits 120
# iterations.
RESNET = 'depth=18, base_channels=16, rel_pos_input_size=32'
MODELS = {
    'eamlp7_in1k': (
        'embed_dims=128, t2t_cfg=dict(token_dims=32), img_size=32',
        """optim_wrapper = dict(optimizer=dict(lr=3e-3))
custom_hooks = [dict(type='EMAHook', momentum=0.1, priority='ABOVE_NORMAL')]""",
    ),
    'lesa-r50_in1k': (RESNET, ''),
    'gsa-r50_in1k': (RESNET, ''),
}
CONFIG = """
_base_ = '{config}'
model = dict(
    backbone=dict({backbone}),
    head=dict(num_classes=4, in_channels=128, topk=(1,)),
)
data_preprocessor = dict(num_classes=4)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], scale=32),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=36),
    dict(_base_.test_pipeline[2], crop_size=32),
    *_base_.test_pipeline[3:],
]
folder = dict(_delete_=True, type='CustomDataset', data_root='{data}')
train_dataloader = dict(
    batch_size=24,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**folder, data_prefix='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**folder, data_prefix='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
{more}
by_iteration = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=2, **by_iteration),
    dict(
        type='CosineAnnealingLR',
        T_max={epochs} - 2,
        eta_min=1e-5,
        begin=2,
        end={epochs},
        **by_iteration
    ),
]
train_cfg = dict(max_epochs={epochs}, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4))
"""


def draw_images(folder: Path, count: int, seed: int) -> None:
    """Draws noise around a colour; each colour is a class, and a folder."""
    rng = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            image = colour + rng.normal(0, 15, 3) + rng.normal(0, 40, (36, 40, 3))
            image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
            image.save(folder / label / f'{index}.png')


def run(tool: str, *arguments) -> str:
    result = subprocess.run(
        [sys.executable, REPO / 'tools' / tool, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONWARNINGS': 'ignore'},
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


def scalars(work_dir: Path) -> list[dict]:
    """Reads the log of the latest run in a work folder."""
    log = max(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope='module', params=MODELS)
def config(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('colours')
    draw_images(folder / 'data/train', count=ITERATIONS * 24 // 4, seed=0)
    draw_images(folder / 'data/val', count=20, seed=1)
    path = folder / 'config.py'
    backbone, more = MODELS[request.param]
    text = CONFIG.format(
        config=REPO / f'configs/{request.param}.py',
        data=folder / 'data',
        epochs=EPOCHS,
        backbone=backbone,
        more=more,
    )
    path.write_text(text)
    return path


@pytest.fixture(scope='module')
def trained(config) -> Path:
    """A work folder after 120 iterations and three validations."""
    run('train.py', config, '--work-dir', config.parent / 'work')
    return config.parent / 'work'


def test_it_learns_by_far_more_than_chance(trained):
    log = scalars(trained)
    losses = [row['loss'] for row in log if 'loss' in row]
    assert len(losses) == EPOCHS * ITERATIONS <= 200
    assert np.isfinite(losses).all()
    accuracies = [row['accuracy/top1'] for row in log if 'accuracy/top1' in row]
    assert len(accuracies) == 3
    assert accuracies[-1] > 3 * CHANCE


def test_it_resumes(trained, config, tmp_path):
    work_dir = tmp_path / 'resumed'
    shutil.copytree(trained, work_dir)
    more = f'train_cfg.max_epochs={EPOCHS + 1}'
    output = run(
        'train.py', config, '--work-dir', work_dir, '--resume', '--cfg-options', more
    )
    assert f'resumed epoch: {EPOCHS}, iter: {EPOCHS * ITERATIONS}' in output
    steps = [row['step'] for row in scalars(work_dir) if 'loss' in row]
    assert steps == [EPOCHS * ITERATIONS + i + 1 for i in range(ITERATIONS)]


def test_testing_gives_the_last_accuracy(trained, config, tmp_path):
    checkpoint = trained / f'epoch_{EPOCHS}.pth'
    output = run('test.py', config, checkpoint, '--work-dir', tmp_path)
    accuracy = [r['accuracy/top1'] for r in scalars(trained) if 'accuracy/top1' in r]
    assert f'accuracy/top1: {accuracy[-1]:.4f}' in output
