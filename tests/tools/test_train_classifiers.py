"""Classifiers at reduced size learn a drawn image set, validate, resume, and start
detectors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tool_runs import run_tool, scalars

pytest.importorskip('mmpretrain')
from mmengine.registry import init_default_scope
from torch.testing import assert_close

import attn_plugins  # noqa: F401 (registers the detectors' backbones)
from attn_plugins.functional import resize_table
from attn_plugins.mm.models import resnet

REPO = Path(__file__).resolve().parents[2]
COLOURS = dict(
    blue=(60, 60, 200), green=(60, 200, 60), red=(200, 60, 60), yellow=(200, 200, 60)
)
CHANCE = 100 / len(COLOURS)
EPOCHS, ITERATIONS = 20, 10  # of an epoch

# Narrower (and shallower), for images of 32 x 32. Augmentations, loss and optimiser are
# the configs' own. EAMLP, whose recipe is one of 400,000 iterations, gets neither
# stochastic depth nor sudden steps, and the average of its weights forgets faster: with
# these, twelve seeds out of twelve learn all four classes within 200 iterations.
RESNET = 'depth=18, base_channels=16, rel_pos_input_size=32'
MODELS = {
    'eamlp7_in1k': (
        'embed_dims=128, t2t_cfg=dict(token_dims=32), img_size=32, drop_path_rate=0.0',
        """optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
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
train_cfg = dict(max_epochs={epochs}, val_interval=5)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5))
randomness = dict(seed=0)
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
    result = run_tool(tool, *arguments)
    assert result.status == 0, result.output[-3000:]
    return result.output


def write_config(folder: Path, name: str, iterations: int, epochs: int) -> Path:
    """Writes a reduced config of a model, and the images that it is for."""
    draw_images(folder / 'data/train', count=iterations * 24 // 4, seed=0)
    draw_images(folder / 'data/val', count=20, seed=1)
    backbone, more = MODELS[name]
    text = CONFIG.format(
        config=REPO / f'configs/{name}.py',
        data=folder / 'data',
        epochs=epochs,
        backbone=backbone,
        more=more,
    )
    path = folder / 'config.py'
    path.write_text(text)
    return path


@pytest.fixture(scope='module', params=MODELS)
def config(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('colours')
    return write_config(folder, request.param, ITERATIONS, EPOCHS)


@pytest.fixture(scope='module')
def trained(config) -> Path:
    """A work folder after 200 iterations and four validations."""
    run('train.py', config, '--work-dir', config.parent / 'work')
    return config.parent / 'work'


def test_a_step_a_validation_and_a_test(tmp_path):
    """The fewest that go through all of it; the others are slow."""
    config = write_config(tmp_path, 'lesa-r50_in1k', iterations=1, epochs=5)
    run('train.py', config, '--work-dir', tmp_path / 'work')
    checkpoint = tmp_path / 'work/epoch_5.pth'
    output = run('test.py', config, checkpoint, '--work-dir', tmp_path / 'test')
    check_tested(tmp_path / 'work', output)


def check_tested(work_dir: Path, output: str) -> None:
    """Checks that a test gave the accuracy of the last validation."""
    accuracy = [r['accuracy/top1'] for r in scalars(work_dir) if 'accuracy/top1' in r]
    assert f'accuracy/top1: {accuracy[-1]:.4f}' in output


@pytest.mark.slow
def test_it_learns_by_far_more_than_chance(trained):
    log = scalars(trained)
    losses = [row['loss'] for row in log if 'loss' in row]
    assert len(losses) == EPOCHS * ITERATIONS <= 200
    assert np.isfinite(losses).all()
    accuracies = [row['accuracy/top1'] for row in log if 'accuracy/top1' in row]
    assert len(accuracies) == 4
    assert accuracies[-1] > 3 * CHANCE


@pytest.mark.slow
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


@pytest.mark.slow
def test_testing_gives_the_last_accuracy(trained, config, tmp_path):
    checkpoint = trained / f'epoch_{EPOCHS}.pth'
    check_tested(trained, run('test.py', config, checkpoint, '--work-dir', tmp_path))


# For each classifier: the detectors' backbone, and the parts of tensors' names that the
# classifier has none of, or of other channels: its tables are of the flat form.
DETECTORS = {
    'lesa-r50_in1k': ('LESAResNet', {'rel_h', 'rel_w', 'similarity_norm', 'out_norm'}),
    'gsa-r50_in1k': ('GSAResNet', set()),
}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:the checkpoint was laid out')
@pytest.mark.parametrize('config', DETECTORS, indirect=True)
def test_it_starts_a_detector(trained, request, monkeypatch):
    """Every tensor that both have is taken, and one line says which are not."""
    registry = pytest.importorskip('mmdet').registry.MODELS
    init_default_scope('mmdet')
    said = []
    monkeypatch.setattr(resnet, 'print_log', lambda text, **options: said.append(text))
    backbone_type, fresh = DETECTORS[request.node.callspec.params['config']]
    checkpoint = str(trained / f'epoch_{EPOCHS}.pth')
    backbone = registry.build(
        dict(
            type=backbone_type,
            depth=18,
            base_channels=16,
            stem_channels=64,  # mmpretrain's, whatever base_channels
            rel_pos_input_size=96,
            init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
        )
    )
    backbone.init_weights()

    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    given = {
        key.removeprefix('backbone.'): tensor
        for key, tensor in weights.items()
        if key.startswith('backbone.')
    }
    own = backbone.state_dict()
    new = {key for key in own if fresh & set(key.split('.'))}
    resized = {key for key in own if key.endswith(('rel_h', 'rel_w'))} - new
    for key in own.keys() - new - resized:
        assert torch.equal(own[key], given[key]), key
    counted = {key for key in own if 'num_batches' not in key}
    new &= counted
    for key in new:
        assert key not in given or own[key].shape != given[key].shape, key
    for key in resized:
        assert own[key].shape != given[key].shape
        size = (len(own[key]) + 1) // 2
        assert_close(own[key], resize_table(given[key], size, keep_sum=True))

    if not fresh:  # GSA: all is taken, and there is nothing to say
        assert resized
        assert said == []
        return
    (line,) = said
    taken = f'{len(counted - new)} of the {len(counted)} tensors'
    assert line.startswith(f'{taken} of the backbone loaded; new: ')
    listed = line.partition('; new: ')[2].partition('; not used: ')
    parts = {entry.partition(' (')[0] for entry in listed[0].split(', ')}
    assert parts == {key.split('.', 2)[2] for key in new}
    assert listed[2].startswith('conv2.context.rel (')
    assert ', ' not in listed[2]
