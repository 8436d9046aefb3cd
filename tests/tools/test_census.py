"""The census of stock configs: one small model of it, and what two censuses say."""

import importlib
import importlib.util
import json
import sys
import types

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')


@pytest.fixture(scope='module')
def census(request):
    path = request.config.rootpath / 'tools' / 'census.py'
    spec = importlib.util.spec_from_file_location('census', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def row(config, ok, errors=None, host='mmdet', operators=()):
    return dict(
        host=host, configs=[config], ok=ok, errors=errors or {}, operators=operators
    )


def test_a_model_is_run(census):
    [*_, found] = census.examine(
        row(
            'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
            [],
            host='mmseg',
        )
    )
    assert found['ok'] == ['predict']
    assert found['errors'] == {}
    assert found['operators'] == []


def lazy(name):
    module = types.ModuleType(name)
    module.__getattr__ = lambda operator: lambda *args: len(args)
    return module


def plain(name):
    module = types.ModuleType(name)
    module.nms = module.softnms = lambda *args: len(args)
    return module


@pytest.mark.parametrize('kind', [plain, lazy])
def test_operators_are_recorded(census, monkeypatch, kind):
    ext = kind('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', ext)
    with census.recording() as called:
        assert ext.nms(1, 2) == 2
    ext.softnms(3)
    assert called == {'nms'}


def test_mmcv_has_recorded_operators(census):
    nms = importlib.import_module('mmcv.ops').nms
    with census.recording() as called:
        nms(torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1), 0.5)
    assert called == {'nms'}


def test_compare(census, tmp_path, capsys):
    compiled = [
        row('a.py', ['predict', 'loss'], operators=['nms']),
        row('b.py', ['predict'], operators=['nms', 'roi_align_forward']),
        row('c.py', [], {'predict': 'RuntimeError: no CPU'}),
    ]
    ours = [
        row('a.py', ['predict'], {'loss': 'NotImplementedError: nms'}),
        row('b.py', ['predict']),
        row('c.py', ['predict']),
    ]
    files = [tmp_path / 'compiled.jsonl', tmp_path / 'ours.jsonl']
    for file, rows in zip(files, (compiled, ours), strict=True):
        file.write_text('\n'.join(map(json.dumps, rows)))

    census.main(['compare', *map(str, files)])

    said = capsys.readouterr().out
    assert 'mmdet: 2 of 3 work with the first' in said
    assert '1 (50.0%) with the second' in said
    assert 'lost: a.py:\n    loss: NotImplementedError: nms' in said
    assert 'only with the second: c.py' in said
    assert 'nms: called by 2' in said
