"""The main job at small size, through our tools and through mmseg's unmodified ones."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
import mmseg
from mmengine.utils import is_installed
from PIL import Image

import attn_plugins.mm.engine.loading  # noqa: F401 (lets torch.load read them)

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / 'configs/eanet_r18_demo.py'
OURS = REPO / 'tools'
STOCK = Path(mmseg.__file__).parent / '.mim/tools'
# A proxy that refuses at once: nothing here may depend on a network.
ENVIRONMENT = {
    **os.environ,
    'https_proxy': 'http://127.0.0.1:9',
    'http_proxy': 'http://127.0.0.1:9',
    'PYTHONWARNINGS': 'ignore',
}


# What the fork's tools need to read `mmseg::...`: attn_plugins.mm.engine.base_configs.
IMPORTED = """
import attn_plugins, runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def start(tool: Path) -> list:
    if is_installed('mmsegmentation') or tool.parent == OURS:
        return [sys.executable, tool]
    return [sys.executable, '-c', IMPORTED, tool]


def run(*command, check: bool = True, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **options.pop('env', {})},
        check=False,
        **options,
    )
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def train(tools: Path, data: Path, work_dir: Path, iterations: int, *more, **options):
    datasets = [f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val')]
    return run(
        *start(tools / 'train.py'),
        CONFIG,
        '--work-dir',
        work_dir,
        *more,
        '--cfg-options',
        *datasets,
        f'train_cfg.max_iters={iterations}',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
        'train_dataloader.batch_size=2',
        **options,
    )


def evaluate(tools: Path, data: Path, checkpoint: Path, *more, **options):
    return run(
        *start(tools / 'test.py'),
        CONFIG,
        checkpoint,
        '--work-dir',
        checkpoint.parent / 'test',
        *more,
        '--cfg-options',
        f'test_dataloader.dataset.data_root={data}',
        **options,
    )


def scalars(work_dir: Path) -> list[dict]:
    """Reads the log of the latest run in a work folder."""
    log = max(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('tools') / 'data'
    run(
        sys.executable,
        OURS / 'make_demo_data.py',
        folder,
        *['--num-train', '4', '--num-val', '2', '--size', '60x80'],
    )
    return folder


@pytest.fixture(scope='module', params=[OURS, STOCK], ids=['ours', 'stock'])
def tools(request) -> Path:
    return request.param


@pytest.fixture(scope='module')
def trained(tools, data, tmp_path_factory) -> Path:
    """A work folder after two iterations and a validation."""
    work_dir = tmp_path_factory.mktemp('trained')
    train(tools, data, work_dir, 2)
    return work_dir


def test_training_logs_validates_and_saves(trained):
    log = scalars(trained)
    assert [row['iter'] for row in log if 'loss' in row] == [1, 2]
    assert all(np.isfinite(row['loss']) for row in log if 'loss' in row)
    assert [row for row in log if 'mIoU' in row]
    weights = torch.load(trained / 'iter_2.pth', weights_only=True)['state_dict']
    assert 'decode_head.attn.key.weight' in weights


def test_resuming_goes_on_where_it_stopped(trained, tools, data, tmp_path):
    work_dir = tmp_path / 'resumed'
    shutil.copytree(trained, work_dir)
    result = train(tools, data, work_dir, 4, '--resume')
    assert 'resumed epoch: 0, iter: 2' in result.stdout + result.stderr
    assert [row['iter'] for row in scalars(work_dir) if 'loss' in row] == [3, 4]
    before = torch.load(work_dir / 'iter_2.pth', weights_only=True)['state_dict']
    after = torch.load(work_dir / 'iter_4.pth', weights_only=True)['state_dict']
    name = 'decode_head.attn.key.weight'
    assert not torch.equal(before[name], after[name])


def test_testing_gives_the_metric_of_the_last_validation(trained, tools, data):
    result = evaluate(tools, data, trained / 'iter_2.pth')
    validated = [row['mIoU'] for row in scalars(trained) if 'mIoU' in row][-1]
    assert f'mIoU: {validated:.4f}' in result.stdout + result.stderr


def test_tta_painting_and_raw_predictions(trained, data, tmp_path):
    checkpoint = trained / 'iter_2.pth'
    options = ('--tta', '--show-dir', tmp_path / 'show', '--out', tmp_path / 'p.pkl')
    result = evaluate(OURS, data, checkpoint, *options)
    assert 'mIoU' in result.stdout + result.stderr
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 2
    predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
    assert len(predictions) == 2
    assert predictions[0]['pred_sem_seg']['data'].shape == (1, 60, 80)


def test_format_only_needs_no_labels_and_counts_from_one(trained, data, tmp_path):
    """ADE20K's server reads 1..150; the network's class 0 is index 1."""
    checkpoint = trained / 'iter_2.pth'
    evaluate(OURS, data, checkpoint, '--out', tmp_path / 'predictions.pkl')
    unlabelled = tmp_path / 'unlabelled'
    shutil.copytree(data / 'images', unlabelled / 'images')
    out = tmp_path / 'submission'
    result = evaluate(OURS, unlabelled, checkpoint, '--format-only', '--out', out)
    assert 'aAcc:' not in result.stdout + result.stderr
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    for prediction in predictions:
        name = Path(prediction['img_path']).stem
        written = np.asarray(Image.open(out / f'{name}.png'))
        expected = prediction['pred_sem_seg']['data'][0].numpy() + 1
        assert written.dtype == np.uint8
        assert np.array_equal(written, expected)


def test_format_only_with_tta(trained, data, tmp_path):
    options = ('--tta', '--format-only', '--out', tmp_path)
    evaluate(OURS, data, trained / 'iter_2.pth', *options)
    assert len(list(tmp_path.glob('*.png'))) == 2


def one_line(result: subprocess.CompletedProcess) -> str:
    """Checks that a run failed with a message, and with no stack trace."""
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    return result.stderr.strip()


def test_missing_data_set(tmp_path):
    result = train(OURS, tmp_path / 'nowhere', tmp_path / 'work', 2, check=False)
    message = one_line(result)
    assert f'MISSING  {tmp_path}/nowhere/images/training' in message
    assert '--data-root DIR' in message
    assert not (tmp_path / 'work').exists()


def test_pretrained_weights_that_cannot_be_had(data, tmp_path):
    config = tmp_path / 'pretrained.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\nmodel = dict(pretrained='open-mmlab://resnet18_v1c')\n"
    )
    result = run(
        *(sys.executable, OURS / 'train.py', config, '--data-root', data),
        *('--work-dir', tmp_path / 'work'),
        env={'TORCH_HOME': str(tmp_path)},
        check=False,
    )
    message = one_line(result)
    assert 'Copy resnet18_v1c' in message
    assert 'model.pretrained=FILE' in message
    assert 'model.pretrained=None' in message


class Poison:
    def __reduce__(self):
        return eval, ("open('poisoned', 'w')",)


@pytest.mark.parametrize('action', ['resume', 'test'])
def test_poisoned_checkpoint_is_refused(action, data, tmp_path):
    checkpoint = tmp_path / 'poisoned.pth'
    torch.save({'state_dict': {}, 'meta': Poison()}, checkpoint)
    if action == 'resume':
        more = ('--resume', checkpoint)
        result = train(
            OURS, data, tmp_path / 'work', 4, *more, check=False, cwd=tmp_path
        )
    else:
        result = evaluate(OURS, data, checkpoint, check=False, cwd=tmp_path)
    assert 'poisoned.pth is refused: it asks for' in one_line(result)
    assert not (tmp_path / 'poisoned').exists()


@pytest.mark.parametrize(
    'arguments', [['--format-only'], ['--format-only', '--out=a.pkl']]
)
def test_format_only_needs_a_folder(arguments, tmp_path):
    command = (sys.executable, OURS / 'test.py', CONFIG, 'x.pth', *arguments)
    assert '--out DIR' in one_line(run(*command, check=False, cwd=tmp_path))


def test_amp_without_a_gpu_says_so(data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('a GPU is here')
    message = one_line(train(OURS, data, tmp_path, 2, '--amp', check=False))
    assert '--amp needs a GPU' in message


@pytest.mark.parametrize(
    ('script', 'arguments', 'expected'),
    [
        (
            'dist_train.sh',
            ['c.py', '4', '--amp'],
            'TOOLS/train.py c.py --launcher pytorch --dry-run --amp\n'
            '-m torch.distributed.run --nnodes=1 --node-rank=0 --master-addr=127.0.0.1 '
            '--master-port=29500 --nproc-per-node=4 TOOLS/train.py c.py '
            '--launcher pytorch --amp',
        ),
        (
            'dist_test.sh',
            ['c.py', 'k.pth', '2', '--tta'],
            '-m torch.distributed.run --nnodes=1 --node-rank=0 --master-addr=127.0.0.1 '
            '--master-port=29500 --nproc-per-node=2 TOOLS/test.py c.py k.pth '
            '--launcher pytorch --tta',
        ),
        (
            'slurm_train.sh',
            ['part', 'job', 'c.py', '--resume'],
            '--partition=part --job-name=job --gres=gpu:8 --ntasks=8 '
            '--ntasks-per-node=8 --cpus-per-task=5 --kill-on-bad-exit=1 FAKE -u '
            'TOOLS/train.py c.py --launcher slurm --resume',
        ),
        (
            'slurm_test.sh',
            ['part', 'job', 'c.py', 'k.pth', '--out', 'a b'],
            '--partition=part --job-name=job --gres=gpu:8 --ntasks=8 '
            '--ntasks-per-node=8 --cpus-per-task=5 --kill-on-bad-exit=1 FAKE -u '
            'TOOLS/test.py c.py k.pth --launcher slurm --out a b',
        ),
    ],
)
def test_launchers_start_what_they_say(script, arguments, expected, tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    result = run(OURS / script, *arguments, env={'PYTHON': str(fake), 'PATH': path})
    expected = expected.replace('TOOLS', str(OURS)).replace('FAKE', str(fake))
    assert result.stdout.strip() == expected
    assert run(OURS / script, check=False).returncode == 2
