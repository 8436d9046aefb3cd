"""mmpretrain: its stock classifier and training tool, beside this package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import attn_plugins  # noqa: F401 (registers)

CONFIG = """
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
custom_imports = dict(imports=['attn_plugins'])
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=3, val_interval=3)
param_scheduler = None
model = dict(backbone=dict(base_channels=8), head=dict(num_classes=2, in_channels=64,
    topk=(1,)))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 24)),
    dict(type='PackInputs'),
]
loader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(_delete_=True, type='CustomDataset', data_prefix='{data}',
        pipeline=pipeline),
)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(topk=(1,))
"""


@pytest.fixture(autouse=True)
def _mmpretrain_scope():
    init_default_scope('mmpretrain')


def draw_images(folder: Path, count: int) -> None:
    """Draws a folder of noise for each class: dark and bright."""
    rng = np.random.default_rng(0)
    for label, low in (('bright', 128), ('dark', 0)):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(low, low + 128, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f'{index}.png')


def test_stock_classifier_learns_from_a_batch():
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18, base_channels=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=2,
                in_channels=64,
                loss=dict(type='CrossEntropyLoss'),
            ),
        )
    )
    images = torch.rand(4, 3, 33, 47)
    samples = [DataSample().set_gt_label(index % 2) for index in range(4)]
    assert model(images, mode='tensor').shape == (4, 2)
    loss = model(images, samples, mode='loss')['loss']
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    scores = torch.stack([s.pred_score for s in model(images, samples, mode='predict')])
    torch.testing.assert_close(scores.sum(1), torch.ones(4))


@pytest.mark.slow
def test_stock_training_tool(tmp_path):
    draw_images(tmp_path / 'data', count=4)
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(data=tmp_path / 'data'))
    import mmpretrain

    tool = Path(mmpretrain.__file__).parent / '.mim/tools/train.py'
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', tool, config, '--work-dir', tmp_path / 'work'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert 'accuracy/top1' in result.stdout + result.stderr
    assert list((tmp_path / 'work').glob('*.pth'))
