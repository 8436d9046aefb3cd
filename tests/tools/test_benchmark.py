"""What is measured computes the same; what counts as memory; files. Never a time."""

import csv
import importlib
import math

import pytest
import torch
from torch import nn

from attn_plugins.functional import reference
from attn_plugins.modules import ExternalAttention2d, GlobalSelfAttention

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


@pytest.fixture(scope='module', autouse=True)
def scripts(request):
    """Finds the modules beside the script, as Python does for a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(request.config.rootpath / 'tools')
        yield


def tool(name):
    return importlib.import_module(name)


def run(command, out, *args):
    tool('benchmark').main([command, '--seconds', '0', '--out', str(out), *args])
    with (out / f'{command}{"_models" * ("--models" in args)}.csv').open() as file:
        return list(csv.DictReader(file))


def columns_in_docs(repo, name):
    return (repo / f'docs/benchmarks/{name}.csv').read_text().splitlines()[0].split(',')


# The same function


def outcome(layer, x, training):
    """Output, gradients and running statistics of one step in float64."""
    layer.double().train(training)
    x = x.clone().requires_grad_()
    out = layer(x)
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    grads = torch.autograd.grad(out, [x, *layer.parameters()], seed)
    return [out, *(grad.squeeze() for grad in grads), *layer.buffers()]


def assert_same(mine, theirs, x):
    """Compares two layers whose parameters come in the same order."""
    for module in mine.modules():
        if isinstance(module, nn.BatchNorm2d):  # at 1 and 0 a mix-up of two could pass
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            q.copy_(p.view_as(q))
    for training in (True, False):
        pairs = zip(
            outcome(mine, x, training), outcome(theirs, x, training), strict=True
        )
        for wanted, found in pairs:
            torch.testing.assert_close(found.view_as(wanted), wanted)


@pytest.mark.parametrize('order', ['plain', 'folded'])
def test_released_external_attention(order):
    external = tool('benchmarks.external')
    layer = ExternalAttention2d(24, order=order, eps=external.RELEASED_EPS)
    nn.init.normal_(layer.value.weight)  # both memories start equal
    x = torch.randn(2, 24, 7, 11, dtype=torch.float64)
    assert_same(layer, external.ReleasedExternalAttention(24), x)


class PrintedContext:
    """LESA's context term from the loops that the paper prints."""

    def forward(self, x):
        q, k, v = self.heads(x)
        args = (q, k, v, self.rel_h, self.rel_w, self.similarity_norm)
        return self.out_norm(reference.lesa_attention(*args).flatten(1, 2))


def images(channels, size):
    """Two images that differ: statistics must be those of both."""
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    return torch.stack([x[0], 3 * x[1] + 1])


def test_released_lesa_is_what_the_paper_prints():
    released = tool('benchmarks.lesa').ReleasedContext
    printed = type('Printed', (PrintedContext, released), {})
    assert_same(printed(16, (3, 4)), released(16, (3, 4)), images(16, (3, 4)))


@pytest.mark.parametrize('impl', ['blocks', 'sdpa'])
def test_ours_is_the_released_lesa(impl):
    lesa = tool('benchmarks.lesa')
    released = lesa.ReleasedContext(64, (7, 11))
    ours = lesa.context(64, (7, 11), impl)
    ours.context.load_state_dict(released.state_dict())
    names = [name for name, _ in released.named_parameters()]
    mine = dict(ours.context.named_parameters())
    assert sorted(mine) == sorted(names)
    x = images(64, (7, 11))
    for training in (True, False):
        wanted, found = (outcome(layer, x, training)[:2] for layer in (released, ours))
        torch.testing.assert_close(found, wanted)
    for name, buffer in released.named_buffers():
        torch.testing.assert_close(dict(ours.context.named_buffers())[name], buffer)


def test_candidates_of_gsa_are_the_layer_and_its_alternative():
    _, gsa, axial, _ = tool('benchmarks.gsa').candidates((4, 5))
    for candidate, axial_content in ((gsa, False), (axial, True)):
        layer = candidate.build(16)
        assert isinstance(layer, GlobalSelfAttention)
        assert layer.axial_content == axial_content


# Measuring


def test_peak_memory_is_the_peak():
    """Of 1 MB, then 3 MB more, of which 1 MB is already gone."""

    def step():
        a = torch.empty(250_000)
        b = torch.empty(500_000)
        del a
        c = torch.empty(250_000)
        del b, c

    peak = tool('benchmarks.measure').peak_memory(step, torch.device('cpu'))
    assert peak == 3_000_000


def test_kept_memory_counts_storages_once_without_ends():
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
    kept = tool('benchmarks.measure').kept_memory(lambda: layer(x), x, layer)
    assert kept == 2 * 4000


def measured(candidates, x, training):
    return tool('benchmarks.measure').measure(candidates, x, training, 0)


def test_folded_keeps_at_most_half_of_the_released_order():
    """Where the map is larger than the weights."""
    external = tool('benchmarks.external')
    pair = (external.FOLDED, external.RELEASED)
    folded, released = measured(pair, torch.randn(1, 256, 64, 64), True)
    assert folded['kept_mb'] <= released['kept_mb'] / 2


def test_inference_in_place_holds_two_buffers_of_logits():
    external = tool('benchmarks.external')
    (row,) = measured([external.IN_PLACE], torch.randn(1, 128, 64, 64), False)
    logits = 4e-6 * external.NUM_SLOTS * 64 * 64
    assert 2 * logits <= row['peak_mb'] + 0.01 < 2.5 * logits


@pytest.mark.parametrize(
    'options', [{}, dict(norm_layer=lambda channels: nn.GroupNorm(32, channels))]
)
@pytest.mark.parametrize('autocast', [False, True])
def test_what_is_kept_grows_with_the_images_only(options, autocast):
    """Matmul of a matrix and a batch copies the batch, of more than one map."""
    layer = ExternalAttention2d(256, order='folded', **options)

    def kept(batch: int) -> int:
        x = torch.randn(batch, 256, 24, 24, requires_grad=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            return tool('benchmarks.measure').kept_memory(lambda: layer(x), x, layer)

    assert kept(3) <= 3 * kept(1)


def test_released_lesa_holds_the_matrices_that_it_is_counted_with():
    """What decides on "does not fit" is what it has, and little more."""
    lesa, models = tool('benchmarks.lesa'), tool('benchmarks.lesa_models')
    released, *_ = lesa.candidates((24, 27))
    x = torch.randn(1, 16, 24, 27)
    for training in (False, True):
        (row,) = measured([released], x, training)
        assert 1 <= 1e6 * row['peak_mb'] / released.needed(x, training) < 1.1
    n_squared = 4 * (24 * 27) ** 2
    assert 1 <= 1e6 * row['kept_mb'] / (models.KEPT * n_squared) < 1.1
    assert lesa.MATRICES[1] == models.KEPT + models.PASSING


@pytest.mark.slow
def test_what_does_not_fit_is_not_tried(monkeypatch, tmp_path):
    measuring = tool('benchmarks.measure')
    monkeypatch.setattr(measuring, 'available_memory', lambda device: 100 * 117 * 4)
    product = tool('benchmarks.external').AttentionProduct
    monkeypatch.setattr(product, 'forward', None)
    rows = run('external', tmp_path, '--methods', 'self-attention', '--sizes', '9x13')
    rows = [row for row in rows if row['impl'] == 'N x N product']
    assert {row['ms_median'] for row in rows} == {'does not fit'}
    assert {row['note'] for row in rows} == {'computed from N x N'}


# Files


@pytest.mark.slow
def test_external_files(repo, tmp_path):
    sizes = ('--channels', '16', '--sizes', '4x5', '9x9')
    rows = run('external', tmp_path, '--methods', 'external', 'GC', *sizes)
    assert list(rows[0]) == columns_in_docs(repo, 'external')
    assert len(rows) == (6 + 5) * 2  # one of them in inference only; two sizes
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


@pytest.mark.slow
def test_every_candidate_runs():
    """Forward and backward, on a map with no side alike."""
    external = tool('benchmarks.external')
    args = tool('benchmark').parse_args(['external', '--channels', '16'])
    for case in external.cases(args, [(9, 13)]):
        rows = measured(
            case.candidates, torch.randn(case.shape), case.mode == 'training'
        )
        assert len(rows) == len(external.PEERS) + 6 + (case.mode == 'inference')
        assert all(row['ms_median'] > 0 for row in rows)


@pytest.mark.slow
def test_lesa_files(repo, tmp_path):
    rows = run('lesa', tmp_path, '--channels', '16', '--sizes', '4x5', '9x9')
    assert list(rows[0]) == columns_in_docs(repo, 'lesa')
    assert [row['impl'] for row in rows[:3]] == ['released', 'blocks', 'sdpa']
    assert all(float(row['peak_mb']) > 0 for row in rows)
    assert (tmp_path / 'lesa.png').stat().st_size > 10_000


@pytest.mark.slow
def test_lesa_backbones(repo, monkeypatch, tmp_path):
    """The released form is left out where its N x N matrices do not fit."""
    (*_, released) = tool('benchmarks.lesa_models').candidates((512, 512), rest=1000)
    # Six layers with 32 x 32 pixels, two with 16 x 16.
    kept = 24 * (6 * 1024**2 + 2 * 256**2)
    x = torch.empty(1, 3, 512, 512)
    assert released.needed(x, True) == 1000 + 4 * (kept + 40 * 1024**2)
    measuring = tool('benchmarks.measure')
    monkeypatch.setattr(measuring, 'available_memory', lambda device: 1000)
    rows = run('lesa', tmp_path, '--models', '--sizes', '64x64')
    assert list(rows[0]) == columns_in_docs(repo, 'lesa_models')
    assert [row['ms_median'] != 'does not fit' for row in rows] == [True, True, False]
    assert rows[1]['params'] == rows[2]['params'] != rows[0]['params']


@pytest.mark.slow
def test_gsa_files(repo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tool('benchmarks.gsa'), 'STAGES', ((4, 4), (2, 2)))
    rows = run('gsa', tmp_path, '--channels', '16', '--sizes', '4x5', '9x9')
    assert list(rows[0]) == columns_in_docs(repo, 'gsa')
    assert {(row['sweep'], row['channels'], row['H']) for row in rows} == {
        ('fixed', '16', '4'),
        ('fixed', '16', '9'),
        ('stages', '16', '4'),
        ('stages', '32', '2'),
    }
    for row in rows:
        if row['method'] == 'convolution':
            channels, pixels = int(row['channels']), int(row['H']) * int(row['W'])
            macs = 9 * channels**2 * pixels
            assert float(row['mflops']) == pytest.approx(2e-6 * macs, abs=1e-3)
            assert float(row['ratio_to_convolution']) == 1
    assert (tmp_path / 'gsa.png').stat().st_size > 10_000
    assert 'exponent of N' in capsys.readouterr().out


def test_exponent_of_growth():
    """Constants hide it on small maps, the two largest are nearer to it."""

    def row(side, ms, mode='training', sweep='fixed'):
        place = dict(mode=mode, sweep=sweep, H=side, W=side)
        return dict(place, ms_median=ms, peak_mb=0)

    growth = tool('benchmarks.gsa').growth
    rows = [row(side, 5 * side**3) for side in (8, 16, 32)]
    rows += [row(64, 'does not fit'), row(128, 1, mode='inference')]
    rows += [row(128, 1, sweep='stages')]
    assert growth(rows, 'training', 'ms_median') == pytest.approx((1.5, 1.5))
    rows = [row(side, 1000 + side**3) for side in (8, 16, 32)]
    total, last = growth(rows, 'training', 'ms_median')
    assert 0 < total < last < 1.5
    for few in (rows[:1], rows[:0]):
        assert all(map(math.isnan, growth(few, 'training', 'ms_median')))


@pytest.mark.slow
def test_gsa_backbones(repo, tmp_path):
    models = tool('benchmarks.gsa_models')
    cost = [
        models.cost(candidate, (224, 224))
        for candidate in models.candidates((224,) * 2)
    ]
    # The text's GSA-ResNet-50 has 18.053 M.
    assert [c['params'] for c in cost] == [25_557_032, 18_052_856]
    assert [round(c['gflops'], 1) for c in cost] == [8.2, 7.2]
    for candidate in models.candidates((64, 96)):
        slots = models.slots(candidate.build(3), torch.randn(1, 3, 64, 96))
        assert [slot.stage for slot in slots] == 3 * [1] + 4 * [2] + 6 * [3] + 3 * [4]
        assert slots[3].x.shape == (1, 128, 16, 24)  # strided, or pooled after
        assert slots[4].x.shape == (1, 128, 8, 12)
        assert slots[-1].x.shape == (1, 512, 2, 3)
    rows = run('gsa', tmp_path, '--models', '--sizes', '64x96')
    assert list(rows[0]) == columns_in_docs(repo, 'gsa_models')
    assert float(rows[1]['gflops']) < float(rows[0]['gflops'])
    with (tmp_path / 'gsa_stages.csv').open() as file:
        stages = list(csv.DictReader(file))
    assert list(stages[0]) == columns_in_docs(repo, 'gsa_stages')
    assert [row['stage'] for row in stages] == 2 * ['1', '2', '3', '4', 'all']
    assert [row['modules'] for row in stages] == 2 * ['3', '4', '6', '3', '16']
    for mode in (stages[:5], stages[5:]):
        total = sum(float(row['gsa_ms']) for row in mode[:4])
        assert float(mode[4]['gsa_ms']) == pytest.approx(total, abs=0.01)


@pytest.mark.slow
def test_whole_models(repo, monkeypatch, tmp_path):
    models = tool('benchmarks.models')
    assert models.model_step('eanet_r50_ade20k', 64, 96)().isfinite()
    name = 'retinanet-ea_r50_coco'
    pair = {name: models.MODEL_PAIRS[name]}
    monkeypatch.setattr(models, 'MODEL_PAIRS', pair)
    times = [[3000.0] * 3, [1000.0, 2000.0, 8000.0]]
    monkeypatch.setattr(models, 'time_in_turns', lambda steps, seconds: times)
    (row,) = run('models', tmp_path, '--sizes', '64x96')
    assert list(row) == columns_in_docs(repo, 'models')
    assert (row['config'], row['stock']) == (name, pair[name])
    keys = ('H', 'W', 'repeats', 's_median', 's_median_stock', 'ratio')
    assert [row[key] for key in keys] == ['64', '96', '3', '3.0', '2.0', '1.5']


@pytest.mark.parametrize('size', ['128', '0x3', 'axb', '3x'])
def test_bad_size_is_one_clear_error(size, capsys):
    with pytest.raises(SystemExit):
        tool('benchmark').main(['lesa', f'--sizes={size}'])
    assert 'must be HxW' in capsys.readouterr().err.splitlines()[-1]
