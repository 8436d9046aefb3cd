"""The main job at small size, through our tools and through mmseg's unmodified ones."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tool_runs import (
    DEMO,
    TOOLS,
    Result,
    demo_options,
    run_tool,
    scalars,
    train_demo,
)

pytest.importorskip('mmseg')
import mmseg
from mmengine.utils import is_installed
from PIL import Image

import attn_plugins.mm.engine.loading  # noqa: F401 (lets torch.load read them)

STOCK = Path(mmseg.__file__).parent / '.mim/tools'
# A proxy that refuses at once: nothing here may depend on a network.
OFFLINE = {'https_proxy': 'http://127.0.0.1:9', 'http_proxy': 'http://127.0.0.1:9'}


# What the fork's tools need to read `mmseg::...`: attn_plugins.mm.engine.base_configs.
IMPORTED = """
import attn_plugins, runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_stock(tool: str, *arguments) -> str:
    """Runs one of mmseg's own tools in a process of its own; returns its output."""
    start = [] if is_installed('mmsegmentation') else ['-c', IMPORTED]
    result = subprocess.run(
        [sys.executable, *start, STOCK / tool, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **OFFLINE, 'PYTHONWARNINGS': 'ignore'},
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-5000:]
    return output


def evaluation(data: Path, checkpoint: Path, work_dir: Path, *more) -> list:
    """The arguments of test.py."""
    options = ('--cfg-options', f'test_dataloader.dataset.data_root={data}')
    return [DEMO, checkpoint, '--work-dir', work_dir, *more, *options]


def evaluate(*arguments) -> Result:
    result = run_tool('test.py', *evaluation(*arguments), **OFFLINE)
    assert result.status == 0, result.output[-5000:]
    return result


def check_run(work_dir: Path) -> None:
    """Checks that a run of two iterations learned, validated and saved."""
    log = scalars(work_dir)
    losses = [row['loss'] for row in log if 'loss' in row]
    assert [row['iter'] for row in log if 'loss' in row] == [1, 2]
    assert np.isfinite(losses).all()
    assert [row for row in log if 'mIoU' in row]
    weights = torch.load(work_dir / 'iter_2.pth', weights_only=True)['state_dict']
    assert 'decode_head.attn.key.weight' in weights


def check_resumed(work_dir: Path, output: str) -> None:
    """Checks that a run went on from its second iteration to the fourth."""
    assert 'resumed epoch: 0, iter: 2' in output
    assert [row['iter'] for row in scalars(work_dir) if 'loss' in row] == [3, 4]
    before, after = (
        torch.load(work_dir / f'iter_{i}.pth', weights_only=True)['state_dict']
        for i in (2, 4)
    )
    name = 'decode_head.attn.key.weight'
    assert not torch.equal(before[name], after[name])


def check_metric(work_dir: Path, output: str) -> None:
    """Checks that a test gave the metric of the run's last validation."""
    validated = [row['mIoU'] for row in scalars(work_dir) if 'mIoU' in row][-1]
    assert f'mIoU: {validated:.4f}' in output


def test_training_logs_validates_and_saves(demo_run):
    check_run(demo_run)


def test_resuming_goes_on_where_it_stopped(demo_run, demo_data, tmp_path):
    work_dir = tmp_path / 'resumed'
    shutil.copytree(demo_run, work_dir)
    check_resumed(work_dir, train_demo(demo_data, work_dir, 4, '--resume').output)


def test_testing_gives_the_metric_of_the_last_validation(demo_run, demo_data, tmp_path):
    result = evaluate(demo_data, demo_run / 'iter_2.pth', tmp_path)
    check_metric(demo_run, result.output)


def test_stock_testing_gives_the_same(demo_run, demo_data, tmp_path):
    arguments = evaluation(demo_data, demo_run / 'iter_2.pth', tmp_path)
    check_metric(demo_run, run_stock('test.py', *arguments))


@pytest.mark.slow
def test_stock_training_and_resuming(demo_data, tmp_path):
    def train(iterations: int, *more) -> str:
        options = ('--cfg-options', *demo_options(demo_data, iterations))
        return run_stock('train.py', DEMO, '--work-dir', tmp_path, *more, *options)

    train(2)
    check_run(tmp_path)
    check_resumed(tmp_path, train(4, '--resume'))


def test_tta_painting_and_raw_predictions(demo_run, demo_data, tmp_path):
    options = ('--tta', '--show-dir', tmp_path / 'show', '--out', tmp_path / 'p.pkl')
    result = evaluate(demo_data, demo_run / 'iter_2.pth', tmp_path / 'work', *options)
    assert 'mIoU' in result.output
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 2
    predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
    assert len(predictions) == 2
    assert predictions[0]['pred_sem_seg']['data'].shape == (1, 60, 80)


def test_format_only_needs_no_labels_and_counts_from_one(demo_run, demo_data, tmp_path):
    """ADE20K's server reads 1..150; the network's class 0 is index 1."""
    checkpoint, work_dir = demo_run / 'iter_2.pth', tmp_path / 'work'
    evaluate(demo_data, checkpoint, work_dir, '--out', tmp_path / 'predictions.pkl')
    unlabelled = tmp_path / 'unlabelled'
    shutil.copytree(demo_data / 'images', unlabelled / 'images')
    out = tmp_path / 'submission'
    result = evaluate(unlabelled, checkpoint, work_dir, '--format-only', '--out', out)
    assert 'aAcc:' not in result.output
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    for prediction in predictions:
        name = Path(prediction['img_path']).stem
        written = np.asarray(Image.open(out / f'{name}.png'))
        expected = prediction['pred_sem_seg']['data'][0].numpy() + 1
        assert written.dtype == np.uint8
        assert np.array_equal(written, expected)


@pytest.mark.slow
def test_format_only_with_tta(demo_run, demo_data, tmp_path):
    options = ('--tta', '--format-only', '--out', tmp_path / 'out')
    evaluate(demo_data, demo_run / 'iter_2.pth', tmp_path / 'work', *options)
    assert len(list((tmp_path / 'out').glob('*.png'))) == 2


def test_missing_data_set(tmp_path):
    result = train_demo(tmp_path / 'nowhere', tmp_path / 'work', 2, status=1)
    message = result.one_line()
    assert f'MISSING  {tmp_path}/nowhere/images/training' in message
    assert '--data-root DIR' in message
    assert not (tmp_path / 'work').exists()


def test_pretrained_weights_that_cannot_be_had(demo_data, tmp_path):
    config = tmp_path / 'pretrained.py'
    config.write_text(
        f"_base_ = '{DEMO}'\nmodel = dict(pretrained='open-mmlab://resnet18_v1c')\n"
    )
    arguments = (config, '--data-root', demo_data, '--work-dir', tmp_path / 'work')
    options = dict(TORCH_HOME=str(tmp_path), **OFFLINE)
    message = run_tool('train.py', *arguments, **options).one_line()
    assert 'Copy resnet18_v1c' in message
    assert 'model.pretrained=FILE' in message
    assert 'model.pretrained=None' in message


@pytest.mark.parametrize(
    'arguments', [['--format-only'], ['--format-only', '--out=a.pkl']]
)
def test_format_only_needs_a_folder(arguments, tmp_path):
    result = run_tool('test.py', DEMO, 'x.pth', *arguments, cwd=tmp_path)
    assert '--out DIR' in result.one_line()


def test_amp_without_a_gpu_says_so(demo_data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('a GPU is here')
    result = train_demo(demo_data, tmp_path, 2, '--amp', status=1)
    assert '--amp needs a GPU' in result.one_line()


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
    environment = {**os.environ, 'PYTHON': str(fake), 'PATH': path}
    command = [TOOLS / script, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    expected = expected.replace('TOOLS', str(TOOLS)).replace('FAKE', str(fake))
    assert result.stdout.strip() == expected
    assert subprocess.run([TOOLS / script], capture_output=True).returncode == 2
