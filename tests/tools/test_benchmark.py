"""The parity gate, what is counted as memory, the files. Never a time."""

import csv
import importlib
import importlib.util
import math

import pytest
import torch
from torch import nn

from attn_plugins.modules import ExternalAttention2d

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

    def wrong(self, pixels, weights, inplace):
        return (
            sound(self, pixels, (weights[0].detach(), *weights[1:]), inplace)
            + 0 * weights[0].sum()
        )

    monkeypatch.setattr(layer, '_forward_folded', wrong)
    with pytest.raises(parity_error, match='folded against plain'):
        external.check_parity()


def test_parity_sees_what_goes_wrong_without_autograd(
    external, parity_error, monkeypatch
):
    layer = external.ExternalAttention2d
    sound = layer.forward

    def wrong(self, x):
        overwrites = self.inplace and not torch.is_grad_enabled()
        return sound(self, x) + (1e-3 * x if overwrites else 0)

    monkeypatch.setattr(layer, 'forward', wrong)
    with pytest.raises(parity_error, match='in place against plain, inference, output'):
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
    assert len(rows) == (6 + 5) * 2  # one of them in inference only; two sizes
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
    trained = [c for c in external.EXTERNAL if c != external.IN_PLACE]
    assert len(trained) == len(external.PEERS) + 6
    for training, candidates in ((False, external.EXTERNAL), (True, trained)):
        measured = measuring.measure(candidates, x, training, 0)
        for name, found in measured.items():
            assert found.peak > 0, name
            assert len(found.times) == measuring.MIN_REPEATS


def test_what_works_in_place_gets_the_same_input_every_time(external):
    layer = external.IN_PLACE.build(16)
    x = torch.randn(1, 16, 9, 13)
    step, _ = external.IN_PLACE.step(layer, x, False)
    first = step().clone()
    assert torch.equal(step(), first)
    assert not torch.equal(first, x)


def test_folded_keeps_at_most_half_of_the_released_order(external, measuring):
    """Where the map is larger than the weights."""
    x = torch.randn(1, 256, 64, 64)
    pair = (external.FOLDED, external.RELEASED)
    measured = measuring.measure(pair, x, True, 0)
    folded, released = (measured[candidate.name] for candidate in pair)
    assert folded.kept <= released.kept / 2


def test_inference_in_place_holds_two_buffers_of_logits(external, measuring):
    x = torch.randn(1, 128, 64, 64)
    measured = measuring.measure([external.IN_PLACE], x, False, 0)
    logits = 4 * external.NUM_SLOTS * 64 * 64
    assert 2 * logits <= measured[external.IN_PLACE.name].peak < 2.5 * logits


@pytest.mark.parametrize(
    'options', [{}, dict(norm_layer=lambda channels: nn.GroupNorm(32, channels))]
)
@pytest.mark.parametrize('autocast', [False, True])
def test_what_is_kept_grows_with_the_images_only(measuring, options, autocast):
    """Matmul of a matrix and a batch copies the batch, of more than one map."""
    layer = ExternalAttention2d(256, order='folded', **options)

    def kept(batch: int) -> int:
        x = torch.randn(batch, 256, 24, 24, requires_grad=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            return measuring.kept_memory(lambda: layer(x), x, layer)

    assert kept(3) <= 3 * kept(1)


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


@pytest.mark.parametrize(
    ('switch', 'kernel', 'said'),
    [
        ('1', 'always [madvise] never', True),
        ('0', 'always [madvise] never', False),
        ('1', 'always madvise [never]', False),
        ('1', None, False),
    ],
)
def test_rows_say_whether_pages_are_large(
    scripts, monkeypatch, tmp_path, switch, kernel, said
):
    report = importlib.import_module('benchmarks.report')
    monkeypatch.setenv('THP_MEM_ALLOC_ENABLE', switch)
    monkeypatch.setattr(report, 'KERNEL_PAGES', tmp_path / 'enabled')
    if kernel is not None:
        report.KERNEL_PAGES.write_text(kernel)
    hardware = report.environment(torch.device('cpu'))['hardware']
    assert ('large pages' in hardware) is said


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


# LESA


@pytest.fixture(scope='module')
def lesa(scripts):
    return importlib.import_module('benchmarks.lesa')


@pytest.fixture(scope='module')
def lesa_models(scripts):
    return importlib.import_module('benchmarks.lesa_models')


def run_lesa(benchmark, out, *args):
    run(benchmark, 'lesa', out, '--channels', '16', *args)


def test_lesa_passes_parity(lesa, lesa_models):
    lesa.check_parity()
    lesa_models.check_parity()


def wrong_content_moments(monkeypatch):
    """The variance of the content term, one thousandth off."""
    module = importlib.import_module('attn_plugins.functional.lesa.context')
    sound = module.content_moments

    def wrong(q, k):
        mean, var = sound(q, k)
        return mean, 1.001 * var

    monkeypatch.setattr(module, 'content_moments', wrong)


@pytest.mark.parametrize('models', [(), ('--models',)])
def test_wrong_lesa_is_not_measured(benchmark, monkeypatch, tmp_path, models):
    wrong_content_moments(monkeypatch)
    with pytest.raises(SystemExit, match=r'parity failed.*blocks against released'):
        run_lesa(benchmark, tmp_path, '--sizes', '64x64', *models)
    assert not list(tmp_path.iterdir())


def test_lesa_parity_sees_wrong_running_statistics(lesa, parity_error, monkeypatch):
    module = importlib.import_module('attn_plugins.functional.batch_norm')
    monkeypatch.setattr(module, '_update_running_statistics', lambda *args: None)
    with pytest.raises(parity_error, match=r'training, similarity_norm\.running_mean'):
        lesa.check_parity()


def test_lesa_parity_sees_a_wrong_gradient(lesa, parity_error, monkeypatch):
    module = importlib.import_module('attn_plugins.functional.lesa.blocks')
    sound = module._sum_windows
    monkeypatch.setattr(module, '_sum_windows', lambda windows: 1.001 * sound(windows))
    with pytest.raises(parity_error, match='training, gradient of'):
        lesa.check_parity()


def test_lesa_parity_sees_a_wrong_baseline(lesa, parity_error, monkeypatch):
    sound = lesa._offset_logits
    monkeypatch.setattr(lesa, '_offset_logits', lambda q, rel: sound(q, rel.flip(0)))
    with pytest.raises(parity_error, match='released against the loops'):
        lesa.check_parity()


def test_lesa_backbone_parity_sees_a_wrong_one(lesa_models, parity_error, monkeypatch):
    wrong_content_moments(monkeypatch)
    with pytest.raises(parity_error, match='LESA-ResNet-50, this package against'):
        lesa_models.check_parity()


def test_lesa_files(benchmark, tmp_path, capsys):
    run_lesa(benchmark, tmp_path, '--sizes', '4x5', '9x9')
    rows = read(tmp_path / 'lesa.csv')
    assert len(rows) == 3 * 2 * 2  # candidates, modes, sizes
    assert [row['impl'] for row in rows[:3]] == ['released', 'blocks', 'sdpa']
    for row in rows:
        assert float(row['ms_median']) > 0
        assert float(row['peak_mb']) > 0
    assert (tmp_path / 'lesa.png').stat().st_size > 10_000
    assert 'not measured' in capsys.readouterr().out


def test_released_lesa_holds_the_matrices_that_are_said(lesa, lesa_models, measuring):
    """What decides on "does not fit" is what it has, and little more."""
    size = (24, 27)
    released = lesa.released(size)
    x = torch.randn(1, 16, *size)
    for training in (False, True):
        found = measuring.measure([released], x, training, 0)[released.name]
        assert 1 <= found.peak / released.needed(x, training) < 1.1
    n_squared = 4 * (24 * 27) ** 2
    assert 1 <= found.kept / (lesa_models.KEPT * n_squared) < 1.1
    assert lesa.MATRICES[1] == lesa_models.KEPT + lesa_models.PASSING


def test_released_lesa_that_does_not_fit_is_not_tried(
    benchmark, lesa, measuring, monkeypatch, tmp_path, capsys
):
    """Memory for inference, not for a training step."""
    memory = 49 * 80**4 * 4
    monkeypatch.setattr(measuring, 'available_memory', lambda device: memory)
    tried = []

    def forward(self, x):
        tried.append(self.training)
        return x.mean(1, keepdim=True)

    monkeypatch.setattr(lesa, 'check_parity', lambda: None)
    monkeypatch.setattr(lesa.ReleasedContext, 'forward', forward)
    monkeypatch.setattr(lesa.LESA2d, 'forward', lambda self, x: 2 * x)
    run_lesa(benchmark, tmp_path, '--sizes', '80x80')
    assert set(tried) == {False}
    rows = read(tmp_path / 'lesa.csv')
    missing = [row for row in rows if row['ms_median'] == 'does not fit']
    assert [(row['impl'], row['mode']) for row in missing] == [('released', 'training')]
    lines = capsys.readouterr().out.splitlines()
    (step,) = (line for line in lines if line.startswith('| time, training step'))
    assert step.count('not measured') == 2


def test_what_lesa_was_asked_beside_what_is_measured(lesa):
    def row(impl, mode, size, ms, peak):
        return dict(impl=impl, mode=mode, H=size, W=size, ms_median=ms, peak_mb=peak)

    rows = [
        row('released', 'inference', 80, 1000, 7500),
        row('blocks', 'inference', 80, 100, 250),
        row('blocks', 'inference', 64, 50, 160),
        row('blocks', 'inference', 128, 700, 680),
        row('released', 'training', 80, 'does not fit', ''),
    ]
    lines = lesa.asked_and_measured(rows).splitlines()
    cells = [[cell.strip() for cell in line.split('|')[2:-1]] for line in lines[2:]]
    unknown = 'not measured'
    assert cells == [
        ['1/28', '1/40', '1/30.0', unknown],
        ['1/18', '1/25', unknown, unknown],
        ['1/5', '1/8', '1/10.0', unknown],
        ['1/3', '1/5', unknown, unknown],
        ['4.5', '', '4.25', unknown],
        ['4.5', '', unknown, unknown],
    ]


def test_lesa_backbones(benchmark, lesa_models, measuring, monkeypatch, tmp_path):
    """The released form is left out where its N x N matrices do not fit."""
    monkeypatch.setattr(lesa_models, 'check_parity', lambda: None)
    (*_, released) = lesa_models.candidates((512, 512), rest=1000)
    # Six layers with 32 x 32 pixels, two with 16 x 16.
    kept = 24 * (6 * 1024**2 + 2 * 256**2)
    x = torch.empty(1, 3, 512, 512)
    assert released.needed(x, True) == 1000 + 4 * (kept + 40 * 1024**2)
    monkeypatch.setattr(measuring, 'available_memory', lambda device: 1000)
    run_lesa(benchmark, tmp_path, '--models', '--sizes', '64x64')
    rows = read(tmp_path / 'lesa_models.csv')
    assert [row['ms_median'] != 'does not fit' for row in rows] == [True, True, False]
    assert rows[1]['params'] == rows[2]['params'] != rows[0]['params']


# GSA


@pytest.fixture(scope='module')
def gsa(scripts):
    return importlib.import_module('benchmarks.gsa')


@pytest.fixture(scope='module')
def gsa_models(scripts):
    return importlib.import_module('benchmarks.gsa_models')


def test_gsa_passes_parity(gsa):
    gsa.check_parity()


@pytest.mark.parametrize('models', [(), ('--models',)])
@pytest.mark.parametrize(
    ('function', 'name'),
    [
        ('content_attention', 'GSA'),
        ('axial_position_attention', 'GSA'),
        ('axial_attention', 'axial attention'),
    ],
)
def test_wrong_gsa_is_not_measured(
    benchmark, monkeypatch, tmp_path, function, name, models
):
    module = importlib.import_module('attn_plugins.modules.gsa')
    sound = getattr(module, function)
    monkeypatch.setattr(
        module, function, lambda *args, **kwargs: 1.001 * sound(*args, **kwargs)
    )
    with pytest.raises(
        SystemExit, match=f'parity failed.*{name}, this package against'
    ):
        run(benchmark, 'gsa', tmp_path, '--sizes', '64x64', *models)
    assert not list(tmp_path.iterdir())


def test_gsa_files(benchmark, gsa, tmp_path, capsys):
    sizes = ('--sizes', '4x5', '9x9', '--stages', '4x4', '2x2')
    run(benchmark, 'gsa', tmp_path, '--channels', '16', *sizes)
    rows = read(tmp_path / 'gsa.csv')
    assert tuple(rows[0]) == gsa.COLUMNS
    assert len(rows) == 4 * 2 * 4  # candidates, modes, maps
    assert {(row['sweep'], row['channels'], row['H']) for row in rows} == {
        ('fixed', '16', '4'),
        ('fixed', '16', '9'),
        ('stages', '16', '4'),
        ('stages', '32', '2'),
    }
    for row in rows:
        assert float(row['ms_median']) > 0
        if row['method'] == 'convolution':
            channels, pixels = int(row['channels']), int(row['H']) * int(row['W'])
            macs = 9 * channels**2 * pixels
            assert float(row['mflops']) == pytest.approx(2e-6 * macs, abs=1e-3)
            assert float(row['ratio_to_convolution']) == 1
    assert (tmp_path / 'gsa.png').stat().st_size > 10_000
    assert 'exponent of N' in capsys.readouterr().out


def test_exponent_of_growth(gsa):
    """Constants hide it on small maps, the two largest are nearer to it."""

    def row(side, ms, **others):
        place = dict(method='GSA', impl='', mode='training', sweep='fixed')
        return place | dict(H=side, W=side, ms_median=ms, peak_mb=0) | others

    rows = [row(side, 5 * side**3) for side in (8, 16, 32)]
    rows += [row(64, 'does not fit'), row(128, 1, mode='inference')]
    rows += [row(128, 1, sweep='stages')]
    name = ('GSA', '')
    assert gsa.growth(rows, name, 'training', 'ms_median') == pytest.approx((1.5, 1.5))
    rows = [row(side, 1000 + side**3) for side in (8, 16, 32)]
    total, last = gsa.growth(rows, name, 'training', 'ms_median')
    assert 0 < total < last < 1.5
    for few in (rows[:1], rows[:0]):
        assert all(map(math.isnan, gsa.growth(few, name, 'training', 'ms_median')))
    assert all(map(math.isnan, gsa.growth(rows, name, 'training', 'peak_mb')))


def test_gsa_networks_are_those_of_the_paper(gsa_models):
    stock, ours = gsa_models.candidates((224, 224))
    cost = gsa_models._cost(stock, (224, 224)), gsa_models._cost(ours, (224, 224))
    # The text's GSA-ResNet-50 has 18.053 M.
    assert [c['params'] for c in cost] == [25_557_032, 18_052_856]
    assert [round(c['gflops'], 1) for c in cost] == [8.2, 7.2]


def test_slots_have_the_maps_of_the_network(gsa_models):
    image = torch.randn(1, 3, 64, 96)
    for candidate in gsa_models.candidates((64, 96)):
        slots = gsa_models.slots(candidate.build(3), image)
        assert [slot.stage for slot in slots] == 3 * [1] + 4 * [2] + 6 * [3] + 3 * [4]
        assert slots[2].x.shape == (1, 64, 16, 24)
        assert slots[3].x.shape == (1, 128, 16, 24)  # strided, or pooled after
        assert slots[4].x.shape == (1, 128, 8, 12)
        assert slots[-1].x.shape == (1, 512, 2, 3)


def test_gsa_backbones(benchmark, gsa_models, monkeypatch, tmp_path):
    monkeypatch.setattr(gsa_models, 'PROFILED_REPEATS', 1)
    run(benchmark, 'gsa', tmp_path, '--models', '--sizes', '64x96')
    rows = read(tmp_path / 'gsa_models.csv')
    assert [row['mode'] for row in rows] == 2 * ['inference'] + 2 * ['training']
    assert float(rows[1]['gflops']) < float(rows[0]['gflops'])
    stages = read(tmp_path / 'gsa_stages.csv')
    assert [row['stage'] for row in stages] == 2 * ['1', '2', '3', '4', 'all']
    assert [row['modules'] for row in stages] == 2 * ['3', '4', '6', '3', '16']
    for mode in (stages[:5], stages[5:]):
        total = sum(float(row['gsa_ms']) for row in mode[:4])
        assert float(mode[4]['gsa_ms']) == pytest.approx(total, abs=0.01)


@pytest.mark.parametrize(
    ('operation', 'kind'),
    [
        ('aten::bmm', 'products'),
        ('aten::addmm', 'products'),
        ('aten::copy_', 'copies'),
        ('aten::_softmax', 'softmax'),
        ('aten::native_batch_norm', 'norm'),
        ('aten::avg_pool2d', 'pooling'),
        ('aten::add', 'sums'),
        ('aten::view', 'other'),
        ('aten::stack', 'other'),
    ],
)
def test_kinds_of_operations(gsa_models, operation, kind):
    assert gsa_models.kind_of(operation) == kind


# Whole models, command line


@pytest.mark.parametrize('name', ['eanet_r50_ade20k', 'mask-rcnn-ea_r50_coco'])
def test_model_step_runs(scripts, name):
    models = importlib.import_module('benchmarks.models')
    assert models.model_step(name, 64, 96)().isfinite()


@pytest.mark.parametrize('size', ['128', '0x3', 'axb', '-1x2', '3x'])
@pytest.mark.parametrize('command', ['external', 'lesa', 'gsa'])
def test_bad_size_is_one_clear_error(benchmark, command, size, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([command, f'--sizes={size}'])
    assert 'must be HxW' in capsys.readouterr().err.splitlines()[-1]


def test_files_of_whole_models(benchmark, scripts, monkeypatch, tmp_path):
    models = importlib.import_module('benchmarks.models')
    name = 'retinanet-ea_r50_coco'
    stock = models.MODEL_PAIRS[name]
    monkeypatch.setattr(models, 'MODEL_PAIRS', {name: stock})
    monkeypatch.setattr(
        models,
        'time_in_turns',
        lambda steps, *args: {name: [3000.0] * 3, stock: [1000.0, 2000.0, 8000.0]},
    )
    benchmark.main(['models', '--size', '64x96', '--out', str(tmp_path)])
    (row,) = read(tmp_path / 'models.csv')
    assert (row['config'], row['stock']) == (name, stock)
    assert (row['H'], row['W'], row['repeats']) == ('64', '96', '3')
    assert [row[key] for key in ('s_median', 's_median_stock', 'ratio')] == [
        '3.0',
        '2.0',
        '1.5',
    ]
