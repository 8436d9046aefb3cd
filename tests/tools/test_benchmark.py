"""The parity gate, what is counted as memory, the files. Never a time."""

import csv
import importlib.util

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


@pytest.fixture(scope='module')
def benchmark(request):
    """The script as a module; it imports its neighbour, as scripts may."""
    folder = request.config.rootpath / 'tools'
    spec = importlib.util.spec_from_file_location('benchmark', folder / 'benchmark.py')
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec.loader.exec_module(module)
    return module


def run(benchmark, out, *args):
    tiny = ('--channels', '16', '--seconds', '0', '--out', str(out))
    benchmark.main(['external', *tiny, *args])


def measure(benchmark, name, training, size=(9, 13), channels=16):
    candidate = next(c for c in benchmark.EXTERNAL if c.name == name)
    x = torch.randn(1, channels, *size)
    return benchmark.measure([candidate], x, training, 0)[name]


def test_layer_passes_parity(benchmark):
    benchmark.check_external_parity()


@pytest.mark.parametrize('factor', [1.001, float('nan')])
def test_parity_refuses_a_broken_layer(benchmark, monkeypatch, tmp_path, factor):
    """One thousandth off in the folded order, and nothing is measured or written."""
    layer = benchmark.ExternalAttention2d
    sound = layer._forward_folded
    monkeypatch.setattr(
        layer, '_forward_folded', lambda self, *args: sound(self, *args) * factor
    )
    with pytest.raises(SystemExit, match=r'parity failed.*folded against plain'):
        run(benchmark, tmp_path, '--sizes', '4x5')
    assert not list(tmp_path.iterdir())


def test_parity_sees_a_wrong_gradient(benchmark, monkeypatch):
    layer = benchmark.ExternalAttention2d
    sound = layer._forward_folded

    def wrong(self, pixels, weights):
        return (
            sound(self, pixels, (weights[0].detach(), *weights[1:]))
            + 0 * weights[0].sum()
        )

    monkeypatch.setattr(layer, '_forward_folded', wrong)
    with pytest.raises(benchmark.ParityError, match='folded against plain'):
        benchmark.check_external_parity()


def test_parity_sees_a_wrong_baseline(benchmark, monkeypatch):
    layer = benchmark.ReleasedExternalAttention
    sound = layer.forward
    monkeypatch.setattr(layer, 'forward', lambda self, x: sound(self, x) + 1e-3 * x)
    with pytest.raises(benchmark.ParityError, match='released against plain'):
        benchmark.check_external_parity()


def test_files(benchmark, tmp_path):
    sizes = ('--sizes', '4x5', '9x9')
    run(benchmark, tmp_path, '--methods', 'external', 'GC', *sizes)
    with (tmp_path / 'external.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == benchmark.COLUMNS
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


def test_what_does_not_fit_is_said_and_not_tried(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, 'available_memory', lambda device: 100 * 117 * 4)

    def never(self, x):
        raise AssertionError

    monkeypatch.setattr(benchmark.AttentionProduct, 'forward', never)
    run(benchmark, tmp_path, '--methods', 'self-attention', '--sizes', '9x13')
    with (tmp_path / 'external.csv').open() as file:
        rows = [row for row in csv.DictReader(file) if row['impl'] == 'N x N product']
    assert {row['ms_median'] for row in rows} == {'does not fit'}
    assert {row['note'] for row in rows} == {'computed from N x N'}


def test_every_candidate_runs(benchmark):
    """Forward and backward, on a map with no side alike."""
    x = torch.randn(1, 16, 9, 13)
    for training in (False, True):
        measured = benchmark.measure(benchmark.EXTERNAL, x, training, 0)
        assert len(measured) == len(benchmark.EXTERNAL) == len(benchmark.PEERS) + 6
        for name, found in measured.items():
            assert found.peak > 0, name
            assert len(found.times) == benchmark.MIN_REPEATS


def test_peak_memory_is_the_peak(benchmark):
    """Of 1 MB, then 3 MB more, of which 1 MB is already gone."""

    def step():
        a = torch.empty(250_000)
        b = torch.empty(500_000)
        del a
        c = torch.empty(250_000)
        del b, c

    assert benchmark.peak_memory(step, torch.device('cpu')) == 3_000_000


def test_kept_memory_counts_storages_once_without_ends(benchmark):
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
    assert benchmark.kept_memory(lambda: layer(x), x, layer) == 2 * 4000


def test_folded_keeps_at_most_half_of_the_released_order(benchmark):
    """Where the map is larger than the weights."""
    folded, released = (
        measure(benchmark, f'external, {impl}', True, size=(64, 64), channels=256)
        for impl in ('folded', 'released')
    )
    assert folded.kept <= released.kept / 2


@pytest.mark.parametrize('name', ['eanet_r50_ade20k', 'mask-rcnn-ea_r50_coco'])
def test_model_step_runs(benchmark, name):
    assert benchmark.model_step(name, 64, 96)().isfinite()


@pytest.mark.parametrize('size', ['128', '0x3', 'axb', '-1x2', '3x'])
def test_bad_size_is_one_clear_error(benchmark, size, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(['external', f'--sizes={size}'])
    assert 'must be HxW' in capsys.readouterr().err.splitlines()[-1]
