"""The launchers start what they say, and it trains: on CPUs, two nodes, SLURM, FSDP.

Several machines are one here: two torchruns that meet, and an ``srun`` of this file.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tool_runs import TOOLS, draw_scenes

pytest.importorskip('mmseg')
from torch.testing import assert_close

import attn_plugins.mm.engine.loading  # noqa: F401 (lets torch.load read them)

REPO = Path(__file__).resolve().parents[2]
SMALL = [
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=1',
    'train_dataloader.batch_size=2',
    'model.backbone.base_channels=8',
    'model.backbone.stem_channels=8',
    'model.decode_head.in_channels=64',
    'model.decode_head.attn_channels=64',
    'model.auxiliary_head.in_channels=32',
]
FSDP = """
_base_ = '{base}'
custom_imports = dict(imports=['attn_plugins.mm.engine.sharding'])
runner_type = 'FlexibleRunner'
policy = 'torch.distributed.fsdp.wrap.size_based_auto_wrap_policy'
strategy = dict(
    type='ResumableFSDPStrategy',
    state_dict_cfg='full',
    model_wrapper=dict(auto_wrap_policy=dict(type=policy, min_num_params=10_000)),
)
"""
# It sees to what it was asked for, and starts the tasks as SLURM does.
SRUN = """#!/usr/bin/env bash
set -eu
for argument; do
    case $argument in
        --ntasks=*) tasks=${argument#*=} ;;
        --*) ;;
        *) break ;;
    esac
    echo "$argument" >>"$SEEN"
    shift
done
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=$tasks \\
        SLURM_NODELIST='node[1-1]' "$@" &
done
for ((task = 0; task < tasks; task++)); do
    wait -n
done
"""
SCONTROL = """#!/usr/bin/env bash
[[ "$*" == 'show hostname node[1-1]' ]] && echo 127.0.0.1
"""
ENVIRONMENT = {
    **os.environ,
    'PYTHON': sys.executable,
    'PYTHONWARNINGS': 'ignore',
    'OMP_NUM_THREADS': '1',
}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('launchers') / 'data'
    draw_scenes(folder, num_train=8)
    return folder


def start(script: str, *arguments, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [TOOLS / script, *map(str, arguments)],
        env={**ENVIRONMENT, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out[-3000:] + err[-3000:]
    return out + err


def port() -> str:
    """A free one; torchrun is not to meet what else runs here."""
    store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True)
    return str(store.port)


def weights(work_dir: Path, iteration: int = 2) -> dict[str, torch.Tensor]:
    path = work_dir / f'iter_{iteration}.pth'
    return torch.load(path, weights_only=True)['state_dict']


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory) -> Path:
    """The demo by two processes of one machine."""
    work_dir = tmp_path_factory.mktemp('two')
    config = REPO / 'configs/eanet_r18_demo.py'
    options = ['--data-root', data, '--work-dir', work_dir, *SMALL]
    log = finish(start('dist_train.sh', config, 2, *options, PORT=port()))
    assert log.count('Saving checkpoint at 2 iterations') == 1
    assert 'Iter(val) [1/1]' in log
    return work_dir


@pytest.mark.slow
def test_two_nodes_train_as_one(data, trained, tmp_path):
    config = REPO / 'configs/eanet_r18_demo.py'
    nodes = dict(NNODES='2', PORT=port())
    folders = [tmp_path / 'first', tmp_path / 'second']
    processes = [
        start(
            'dist_train.sh',
            config,
            1,
            *['--data-root', data, '--work-dir', folder, *SMALL],
            NODE_RANK=str(rank),
            **nodes,
        )
        for rank, folder in enumerate(folders)
    ]
    for process in processes:
        finish(process)
    assert_close(weights(folders[0]), weights(trained), rtol=0, atol=0)
    # Only the first process of all writes.
    assert not list(folders[1].rglob('*.pth'))


@pytest.mark.slow
def test_slurm_trains_the_same(data, trained, tmp_path):
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    config, work_dir = REPO / 'configs/eanet_r18_demo.py', tmp_path / 'work'
    process = start(
        'slurm_train.sh',
        *['part', 'job', config, '--data-root', data, '--work-dir', work_dir, *SMALL],
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        SEEN=str(tmp_path / 'seen'),
        MASTER_PORT=port(),
        GPUS='2',
        GPUS_PER_NODE='2',
        SRUN_ARGS='--time=1:00:00 --exclusive',
    )
    finish(process)
    assert (tmp_path / 'seen').read_text().split() == [
        *['--partition=part', '--job-name=job', '--gres=gpu:2', '--ntasks=2'],
        *['--ntasks-per-node=2', '--cpus-per-task=5', '--kill-on-bad-exit=1'],
        *['--time=1:00:00', '--exclusive'],
    ]
    assert_close(weights(work_dir), weights(trained), rtol=0, atol=0)


@pytest.mark.slow
def test_fsdp_trains_and_resumes_the_same(data, trained, tmp_path):
    """The strategy of configs/eanet_r101_ade20k_fsdp.py on the demo."""
    config = tmp_path / 'fsdp.py'
    config.write_text(FSDP.format(base=REPO / 'configs/eanet_r18_demo.py'))
    options = ['--data-root', data, '--work-dir', tmp_path, *SMALL]
    finish(start('dist_train.sh', config, 2, *options, PORT=port()))
    assert_close(weights(tmp_path), weights(trained), rtol=1e-5, atol=1e-6)
    expected = weights(tmp_path)
    (tmp_path / 'iter_2.pth').unlink()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_1.pth'))
    finish(start('dist_train.sh', config, 2, '--resume', *options, PORT=port()))
    assert_close(weights(tmp_path), expected, rtol=0, atol=0)


@pytest.mark.parametrize('node', ['0', pytest.param('1', marks=pytest.mark.slow)])
def test_sync_bn_on_a_cpu_ends_with_one_line(data, node, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('a GPU is here')
    sync_bn = 'model.decode_head.norm_cfg.type'
    process = start(
        'dist_train.sh',
        REPO / 'configs/eanet_r18_demo.py',
        2,
        *['--data-root', data, '--work-dir', tmp_path / 'work', *SMALL],
        f'{sync_bn}=SyncBN',
        NNODES='2',
        NODE_RANK=node,
    )
    lines = finish(process, code=1).splitlines()
    assert not (tmp_path / 'work').exists()
    if node == '1':  # the first node has said it
        assert lines == []
        return
    assert len(lines) == 1
    assert lines[0].startswith(
        'train.py: error: SyncBN needs GPUs, and torch sees none'
    )
    assert lines[0].endswith(f'--cfg-options {sync_bn}=BN')
