"""Same-schedule comparisons: the models, and the table of what was run."""

import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
import mmdet.registry
import mmseg.registry

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools'))
import compare
from mmengine.registry import init_default_scope


def test_table_is_that_of_the_docs(repo, capsys):
    compare.main(['table'])
    rows = capsys.readouterr().out.splitlines()
    rows = [line for line in rows if '±' in line]
    assert len(rows) == sum(map(len, compare.MODELS.values()))
    docs = ' '.join((repo / 'docs/benchmarks.md').read_text().split())
    for row in rows:
        name, *metrics = [cell.strip() for cell in row.strip('|').split('|')]
        assert f'{name} | {metrics[0]} |' in docs


def test_what_has_a_row_is_not_repeated(tmp_path, monkeypatch):
    out = tmp_path / 'found/comparison.csv'
    done = dict(task='camvid', model='no attention', seed=1, metric='mIoU', value=5)
    compare.append(out, [done])
    compare.append(out, [dict(done, task='nuts', seed=0)])
    started = []
    monkeypatch.setattr(
        compare.subprocess,
        'run',
        lambda command, **options: started.append((command[-3], command[-1])),
    )
    args = compare.parse_args(['camvid', '--seeds', '2', '--out', str(out)])
    compare.run_all(args)
    models = list(compare.MODELS['camvid'])
    assert started == [(m, '0') for m in models] + [(m, '1') for m in models[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'registry'), [('camvid', mmseg.registry), ('nuts', mmdet.registry)]
)
def test_models_differ_in_what_they_are_named_after(task, registry, monkeypatch):
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
