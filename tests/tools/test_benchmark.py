"""The parity gate, what is counted as memory, the files. Never a time."""

import csv
import importlib
import importlib.util

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


@pytest.fixture(scope='module')
def scripts(request):
    """Finds the modules beside the script, as Python does for a script."""
    folder = request.config.rootpath / 'tools'
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope='module')
def benchmark(scripts):
    path = scripts / 'benchmark.py'
    spec = importlib.util.spec_from_file_location('benchmark', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def measuring(scripts):
    return importlib.import_module('benchmarks.measure')


@pytest.fixture(scope='module')
def external(scripts):
    return importlib.import_module('benchmarks.external')


@pytest.fixture(scope='module')
def parity_error(scripts):
    return importlib.import_module('benchmarks.parity').ParityError


def run(benchmark, command, out, *args):
    benchmark.main([command, '--seconds', '0', '--out', str(out), *args])


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# External attention


def run_external(benchmark, out, *args):
    run(benchmark, 'external', out, '--channels', '16', *args)


def test_layer_passes_parity(external):
    external.check_parity()


@pytest.mark.parametrize('factor', [1.001, float('nan')])
def test_parity_refuses_a_broken_layer(
    benchmark, external, monkeypatch, tmp_path, factor
):
    """One thousandth off in the folded order, and nothing is measured or written."""
    layer = external.ExternalAttention2d
    sound = layer._forward_folded
    monkeypatch.setattr(
        layer, '_forward_folded', lambda self, *args: sound(self, *args) * factor
    )
    with pytest.raises(SystemExit, match=r'parity failed.*folded against plain'):
        run_external(benchmark, tmp_path, '--sizes', '4x5')
    assert not list(tmp_path.iterdir())


def test_parity_sees_a_wrong_gradient(external, parity_error, monkeypatch):
    layer = external.ExternalAttention2d
    sound = layer._forward_folded

    def wrong(self, pixels, weights):
        return (
            sound(self, pixels, (weights[0].detach(), *weights[1:]))
            + 0 * weights[0].sum()
        )

    monkeypatch.setattr(layer, '_forward_folded', wrong)
    with pytest.raises(parity_error, match='folded against plain'):
        external.check_parity()


def test_parity_sees_a_wrong_baseline(external, parity_error, monkeypatch):
    layer = external.ReleasedExternalAttention
    sound = layer.forward
    monkeypatch.setattr(layer, 'forward', lambda self, x: sound(self, x) + 1e-3 * x)
    with pytest.raises(parity_error, match='released against plain'):
        external.check_parity()


def test_files(benchmark, tmp_path):
    sizes = ('--sizes', '4x5', '9x9')
    run_external(benchmark, tmp_path, '--methods', 'external', 'GC', *sizes)
    rows = read(tmp_path / 'external.csv')
    columns = importlib.import_module('benchmarks.report').COLUMNS
    assert tuple(rows[0]) == columns
    assert len(rows) == 5 * 2 * 2  # candidates, modes, sizes
    assert {row['mode'] for row in rows} == {'inference', 'training'}
    assert {(row['H'], row['W']) for row in rows} == {('4', '5'), ('9', '9')}
    for row in rows:
        assert float(row['ms_median']) >= float(row['ms_min']) > 0
        assert row['torch'] == torch.__version__
        assert row['hardware']
        if row['impl'] == 'released':
            assert float(row['ratio_to_released']) == 1
        if row['mode'] == 'inference':
            assert float(row['kept_mb']) == 0
    assert (tmp_path / 'external.png').stat().st_size > 10_000


def test_what_does_not_fit_is_said_and_not_tried(
    benchmark, external, measuring, monkeypatch, tmp_path
):
    monkeypatch.setattr(measuring, 'available_memory', lambda device: 100 * 117 * 4)

    def never(self, x):
        raise AssertionError

    monkeypatch.setattr(external.AttentionProduct, 'forward', never)
    run_external(benchmark, tmp_path, '--methods', 'self-attention', '--sizes', '9x13')
    rows = read(tmp_path / 'external.csv')
    rows = [row for row in rows if row['impl'] == 'N x N product']
    assert {row['ms_median'] for row in rows} == {'does not fit'}
    assert {row['note'] for row in rows} == {'computed from N x N'}


def test_every_candidate_runs(external, measuring):
    """Forward and backward, on a map with no side alike."""
    x = torch.randn(1, 16, 9, 13)
    for training in (False, True):
        measured = measuring.measure(external.EXTERNAL, x, training, 0)
        assert len(measured) == len(external.EXTERNAL) == len(external.PEERS) + 6
        for name, found in measured.items():
            assert found.peak > 0, name
            assert len(found.times) == measuring.MIN_REPEATS


def test_folded_keeps_at_most_half_of_the_released_order(external, measuring):
    """Where the map is larger than the weights."""
    x = torch.randn(1, 256, 64, 64)
    pair = (external.FOLDED, external.RELEASED)
    measured = measuring.measure(pair, x, True, 0)
    folded, released = (measured[candidate.name] for candidate in pair)
    assert folded.kept <= released.kept / 2


# Measuring


def test_peak_memory_is_the_peak(measuring):
    """Of 1 MB, then 3 MB more, of which 1 MB is already gone."""

    def step():
        a = torch.empty(250_000)
        b = torch.empty(500_000)
        del a
        c = torch.empty(250_000)
        del b, c

    assert measuring.peak_memory(step, torch.device('cpu')) == 3_000_000


def test_kept_memory_counts_storages_once_without_ends(measuring):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            middle = x.sin()  # keeps x
            # Both keep `middle`, one of them a view of it; the last one its output.
            return (middle.exp() * 0 + middle.view(-1).cos().view_as(x)).sigmoid()

    layer, x = Layer(), torch.randn(10, 100, requires_grad=True)
    # `middle`, and the output of exp: 1000 numbers each.
    assert measuring.kept_memory(lambda: layer(x), x, layer) == 2 * 4000


# Whole models, command line


@pytest.mark.parametrize('name', ['eanet_r50_ade20k', 'mask-rcnn-ea_r50_coco'])
def test_model_step_runs(scripts, name):
    models = importlib.import_module('benchmarks.models')
    assert models.model_step(name, 64, 96)().isfinite()


@pytest.mark.parametrize('size', ['128', '0x3', 'axb', '-1x2', '3x'])
def test_bad_size_is_one_clear_error(benchmark, size, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(['external', f'--sizes={size}'])
    assert 'must be HxW' in capsys.readouterr().err.splitlines()[-1]
