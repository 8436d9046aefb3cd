"""Counts against numbers derived by hand; the table; bad shapes."""

import importlib.util
import sys

import pytest
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

C, S, N = 512, 64, 128 * 128


@pytest.fixture(scope='module')
def complexity(request):
    """The script as a module; it imports its neighbours, as scripts may."""
    folder = request.config.rootpath / 'tools'
    path = folder / 'complexity.py'
    spec = importlib.util.spec_from_file_location('complexity', path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def costs(complexity):
    """Every row of the paper's table."""
    return {
        block.name: complexity.count(
            lambda block=block: block.build(C), complexity.PAPER_SHAPE
        )
        for block in complexity.BLOCKS
    }


def test_external_attention(costs):
    plain, folded = costs['EA, plain order'], costs['EA, folded']
    assert plain.params == folded.params == 590_336  # 2 C C + C + 2 S C
    assert plain.norm_params == 2 * C
    assert plain.macs == N * (2 * C * C + 2 * S * C) == 9_663_676_416
    # Two products of the weights, then two of S x C with the pixels.
    assert folded.macs == 2 * S * C * C + 2 * N * S * C == 1_107_296_256


def test_tied_memory_saves_parameters_but_no_work(costs):
    assert costs['EA, tied memory'].params == 590_336 - S * C
    assert costs['EA, tied memory'].macs == costs['EA, plain order'].macs


def test_self_attention_is_the_printed_292(costs):
    cost = costs['self-attention']
    assert cost.params == 4 * C * C == 2**20
    assert cost.macs == 4 * N * C * C + 2 * N * N * C
    assert round(cost.macs / 1e9) == 292


def test_dual_attention(costs):
    width = C // 8
    cost = costs['dual attention']
    position = 2 * (C * width + width) + C * C + C + 1  # q, k, v, gamma
    assert cost.params == 2 * 9 * C * C + position + 1
    assert round((cost.params + cost.norm_params) / 2**20, 2) == 4.82  # as printed
    convolutions = N * (2 * 9 * C * C + 2 * C * width + C * C)
    assert cost.macs == convolutions + N * N * (width + C) + 2 * N * C * C


def test_dynamic_filters_are_as_printed(costs):
    cost = costs['DM']
    generated = N * C * (1 + 9 + 25 + 49)
    generators = C * C * (1 + 9 + 25 + 49)
    assert cost.macs == 4 * 2 * N * C * C + generated + generators
    assert round(cost.macs / 1e9, 1) == 35.1
    assert round(cost.params / 2**20, 2) == 3.00


def test_adaptive_context_has_the_printed_macs(costs):
    assert round(costs['APC'].macs / 1e9, 1) == 17.6


def test_hamburger(costs):
    cost = costs['Hamburger']
    products = 2 * 6 + 3  # with the map: two a step, and start, end, output
    small = (6 + 1) * (N + C) * S * S + 6 * (N + C) * S * S
    assert cost.params == 2 * C * C + C  # the second convolution has a norm
    assert cost.macs == 2 * N * C * C + products * N * C * S + small
    assert round(cost.params / 2**20, 2) == 0.50


def test_non_local(costs):
    cost = costs['non-local']
    assert cost.macs == 4 * N * C * (C // 2) + 2 * N * N * (C // 2)


def test_criss_cross(costs):
    width, side = C // 8, 128
    cost = costs['CC']
    assert cost.macs == N * (C * C + 2 * C * width) + N * 2 * side * (width + C)


@pytest.mark.slow
def test_nothing_is_computed(complexity):
    """A map whose N x N matrix no machine could hold."""
    build = next(b.build for b in complexity.BLOCKS if b.name == 'non-local')
    macs = complexity.count(lambda: build(8), (1, 8, 4096, 4096)).macs
    assert macs > 2 * (4096 * 4096) ** 2 * 4


def test_models_beside_their_stock_bases(complexity):
    """At the detectors' map of stride 32, EA costs its weights and two products."""
    ours, stock = (
        complexity.count(
            lambda name=name: complexity.build_model(
                complexity.load_model_config(name)
            ),
            (1, 3, 256, 256),
            complexity.forward_model,
        )
        for name in (
            'cascade-mask-rcnn-ea_r50_coco',
            complexity.MODEL_PAIRS['cascade-mask-rcnn-ea_r50_coco'],
        )
    )
    width, slots, pixels = 2048, 64, 8 * 8
    assert ours.params - stock.params == 2 * width**2 + width + 2 * slots * width
    # As many pixels as slots: both orders cost the same.
    assert ours.macs - stock.macs == pixels * (2 * width**2 + 2 * slots * width)


def test_table_shows_what_is_printed_for_the_papers_shape_only(complexity, monkeypatch):
    block = complexity.Block('x', lambda c: nn.Conv2d(c, c, 1), ('1.23', '45.6'), 'why')
    monkeypatch.setattr(complexity, 'BLOCKS', (block,))
    table = complexity.block_table(complexity.PAPER_SHAPE)
    assert '| 1.23 |' in ' '.join(table.split())
    assert '- x: why' in table
    assert 'printed' not in complexity.block_table((1, 8, 3, 5))


@pytest.mark.parametrize(
    'shape', [['1', '512', '64'], ['1', '510', '8', '8'], ['1', '512', '0', '8']]
)
def test_bad_shape_is_one_clear_error(complexity, shape, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['complexity.py', '--shape', *shape])
    with pytest.raises(SystemExit):
        complexity.main()
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'B C H W' in error
    assert ' '.join(shape) in error
