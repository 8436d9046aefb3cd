"""Same-schedule comparisons: every model builds and learns, runs are not repeated."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
import mmdet.registry
import mmseg.registry

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools'))
import compare
from mmengine.registry import init_default_scope

from attn_plugins.mm.apis.launch import LaunchError

SHORT = """
_base_ = '{repo}/tools/comparison/camvid.py'
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(batch_size=2)
model = dict(
    backbone=dict(stem_channels=8, base_channels=8),
    decode_head=dict(in_channels=64, attn_channels=16, channels=16),
    auxiliary_head=dict(in_channels=32, channels=16),
)
"""


@pytest.fixture
def short(tmp_path, repo) -> argparse.Namespace:
    """Arguments of a comparison of two iterations on drawn pictures."""
    rng = np.random.default_rng(0)
    for part in ('train', 'val', 'test'):
        for folder, shape in ((part, (60, 80, 3)), (f'{part}annot', (60, 80))):
            (tmp_path / folder).mkdir()
            high = 256 if len(shape) == 3 else 12  # classes and void
            suffix = 'jpg' if len(shape) == 3 else 'png'
            for index in range(2):
                picture = Image.fromarray(rng.integers(high, size=shape, dtype='uint8'))
                picture.save(tmp_path / folder / f'{index}.{suffix}')
    config = tmp_path / 'short.py'
    config.write_text(SHORT.format(repo=repo))
    folder, out = str(tmp_path), str(tmp_path / 'found/comparison.csv')
    options = ['--data-root', folder, '--config', str(config), '--out', out]
    command = ['camvid', '--seeds', '2', *options]
    arguments = compare.parse_args(command)
    arguments.command = command
    return arguments


def test_a_run_adds_its_row_and_the_others_are_said_not_to_be_run(short, capsys):
    one = ['--model', 'EA, 8 slots, softmax', '--seed', '0']
    # As the tool does; mmengine's visualizer outlives the run and its folder.
    command = [sys.executable, compare.__file__, *short.command, *one]
    subprocess.run(command, check=True, capture_output=True)
    (row,) = compare.read(short.out)
    assert (row['task'], row['config'], row['seed']) == ('camvid', 'short', '0')
    assert (row['metric'], row['iterations']) == ('mIoU', '2')
    assert 0 <= float(row['value']) <= 100
    assert int(row['params']) > 0
    assert int(row['peak_mb']) > 100
    capsys.readouterr()

    compare.main(['table', '--out', str(short.out), '--seeds', '2'])
    *others, mine = capsys.readouterr().out.strip().split('\n\n')
    # The schedules of the tool have no row in this file.
    assert [text.count('| 0 of 2 |') for text in others] == [7, 4]
    lines = mine.splitlines()
    assert len(lines) == 2 + len(compare.MODELS['camvid'])
    mine = [line for line in lines if 'EA, 8 slots, softmax' in line]
    assert f'{float(row["value"]):.2f} |' in mine[0]
    assert '1 of 2' in mine[0]
    assert sum('not run' in line for line in lines) == len(compare.MODELS['camvid']) - 1


def test_what_has_a_row_is_not_repeated(short, monkeypatch):
    done = dict.fromkeys(compare.COLUMNS, '1') | dict(
        task='camvid', config='short', metric='mIoU'
    )
    compare.append(short.out, [done | dict(model='no attention', seed='1')])
    started = []

    def record(command, **options):
        *_, _, model, _, seed = command
        started.append((model, seed))
        return argparse.Namespace(returncode=1, stdout='', stderr='it was not started')

    monkeypatch.setattr(compare.subprocess, 'run', record)
    compare.main(short.command)
    models = list(compare.MODELS['camvid'])
    assert started == [(m, '0') for m in models] + [(m, '1') for m in models[1:]]


def test_all_takes_both_from_one_folder(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(compare, 'run_all', lambda args: runs.append(args))
    compare.main(['all', '--data-root', str(tmp_path), '--out', str(tmp_path / 'no')])
    assert [(r.task, r.data_root, r.config.stem) for r in runs] == [
        ('camvid', str(tmp_path / 'camvid'), 'camvid'),
        ('nuts', str(tmp_path / 'nuts'), 'nuts'),
    ]


@pytest.mark.parametrize(
    ('task', 'registry'), [('camvid', mmseg.registry), ('nuts', mmdet.registry)]
)
def test_models_differ_in_what_they_are_named_after(
    task, registry, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, 'check_data', lambda cfg, *splits: None)
    init_default_scope({'camvid': 'mmseg', 'nuts': 'mmdet'}[task])
    params = {}
    for name in compare.MODELS[task]:
        args = compare.parse_args([task, '--model', name, '--seed', '0'])
        model = registry.MODELS.build(compare.build_config(args).model)
        params[name] = sum(p.numel() for p in model.parameters())
    plain = params.pop('no attention')
    if task == 'camvid':  # normalisation has no parameters
        assert all(count > plain for count in params.values())
        assert len(set(params.values())) == 3
    else:  # attention of C^2 numbers in place of 3x3 convolutions
        assert params['EA after stage 4'] == plain + 2 * 512**2 + 2 * 64 * 512 + 3 * 512
        assert params['LESA in stages 3 and 4'] < plain
        assert params['GSA in stages 3 and 4'] < plain


def test_mean_and_deviation():
    assert compare.spread([1.5]) == '1.50'
    assert compare.spread([0.25, 0.27]) == '26.00 ± 1.41'


def test_missing_data_is_one_line(short, repo):
    shutil.rmtree(Path(short.data_root) / 'test')
    with pytest.raises(LaunchError, match='MISSING'):
        compare.run_all(short)
