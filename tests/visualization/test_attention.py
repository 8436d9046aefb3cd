"""Captions and arrangement of the maps that layers give."""

import numpy as np
import pytest
import torch

from attn_plugins.modules import (
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
    TokenExternalAttention,
)
from attn_plugins.visualization import AttentionRecorder, describe
from attn_plugins.visualization.attention import cell, most_active, on_grid, token_grid

SIZE = (5, 7)
POINT = (0.5, 0.3)  # row 1, column 3
ROW, COLUMN = 1, 3


@pytest.fixture
def x():
    return torch.randn(2, 16, *SIZE, dtype=torch.double)


def build(kind, *args, **options):
    """A layer whose norms and tables are not those of its start."""
    layer = kind(*args, **options).double()
    layer.train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if not isinstance(layer, MultiHeadExternalAttention | TokenExternalAttention):
            layer(torch.randn(4, 16, *SIZE, dtype=torch.double))
    return layer.eval()


def record(layer, x):
    with torch.no_grad(), AttentionRecorder(layer) as recorder:
        layer(x)
    return recorder.recordings[0]


def test_cell():
    assert cell(POINT, SIZE) == (ROW, COLUMN)
    assert cell((0, 0), SIZE) == (0, 0)
    assert cell((1, 1), SIZE) == (4, 6)
    with pytest.raises(ValueError, match=r'got \(1\.1, 0\)'):
        cell((1.1, 0), SIZE)


def test_description_of_the_tokens_to_token_stage():
    layer = build(TokenExternalAttention, 12, 8, 6)
    recording = record(layer, torch.randn(1, 56 * 56, 12).double())
    attention = describe(recording, image_size=(224, 224), num_slots=3)
    assert attention.notes[0] == 'grid 56 x 56'
    assert attention.notes[1] == '3 most active of 6 slots'
    assert [item.values.shape for item in attention.maps] == [(56, 56)] * 3
    chosen = describe(recording, image_size=(224, 224), slots=[4]).maps
    assert [item.label[:7] for item in chosen] == ['slot 4:']


def test_tokens_lie_on_a_grid_behind_the_class_token():
    attn = torch.arange(36.0)
    assert on_grid(attn[:35], SIZE)[1, 0] == 7
    assert on_grid(attn, SIZE)[1, 0] == 8
    with pytest.raises(ValueError, match=r'tokens, 36 .* got 6 x 7'):
        on_grid(attn, (6, 7))


@pytest.mark.parametrize(
    ('tokens', 'size', 'grid'),
    [
        (196, (224, 224), (14, 14)),
        (197, (224, 224), (14, 14)),
        (35, (80, 112), (5, 7)),
        (12, (60, 75), (3, 4)),  # padded to patches of 20
        (3, (3, 1), (3, 1)),
    ],
)
def test_token_grid(tokens, size, grid):
    assert token_grid(tokens, size) == grid


def test_tokens_that_are_no_grid():
    with pytest.raises(ValueError, match='199 tokens are no grid'):
        token_grid(199, (224, 224))


def test_most_active_slots_come_first():
    maps = torch.zeros(2, 4, 3, 3)
    maps[:, 2], maps[0, 1] = 0.5, 0.7
    assert most_active(maps, 2) == [2, 1]
    assert len(most_active(maps, 9)) == 4


@pytest.mark.parametrize('axis', ['columns', 'rows'])
def test_gsa_with_one_axis_shows_it_alone(x, axis):
    other = {'columns': 'rows', 'rows': 'columns'}[axis]
    options = {other: False, 'content': False}
    layer = build(GlobalSelfAttention, 16, 2, rel_pos_size=8, **options)
    (item,) = describe(record(layer, x), [POINT]).maps
    assert item.label == f'point: {axis[:-1]}'
    here = np.isfinite(item.values)
    line = here[:, COLUMN] if axis == 'columns' else here[ROW]
    assert line.all()
    assert here.sum() == line.size


def test_description_of_external_attention(x):
    layer = build(ExternalAttention2d, 16, 6)
    attention = describe(record(layer, x), num_slots=2)
    assert attention.kind == 'ExternalAttention2d'
    assert attention.notes[:2] == ['map 5 x 7', '2 most active of 6 slots']
    maps = layer.attention(x)[0]
    best = int(maps.mean((1, 2)).argmax())
    share = 100 * maps[best].mean()
    assert attention.maps[0].label == f'slot {best}: {share:.1f} %'
    np.testing.assert_allclose(attention.maps[0].values, maps[best].numpy(), rtol=1e-6)
    chosen = describe(record(layer, x), slots=[5, 0]).maps
    assert [item.label.partition(':')[0] for item in chosen] == ['slot 5', 'slot 0']
    with pytest.raises(ValueError, match=r'slots must lie in \[0, 6\), got 6'):
        describe(record(layer, x), slots=[6])


def test_description_of_lesa(x):
    layer = build(LESA2d, 16, num_heads=2, rel_pos_size=8)
    attention = describe(record(layer, x), [POINT])
    labels = [item.label for item in attention.maps]
    assert labels == [
        'gate w: 0 local, 1 context',
        'point attends, mean of heads',
        'head 0',
        'head 1',
    ]
    gate = attention.maps[0]
    assert gate.limits == (0, 1)
    assert gate.point is None
    expected = layer.attention(x, [(0, 0)]).gate[0].mean(0)
    np.testing.assert_allclose(gate.values, expected.numpy(), rtol=1e-5)
    two = describe(record(layer, x), [POINT, (0, 0)]).maps
    assert [item.label for item in two[1:]] == [
        'point 1 attends, mean of heads',
        'point 2 attends, mean of heads',
    ]


@pytest.mark.parametrize(
    ('kind', 'options'),
    [(LESA2d, dict(rel_pos_size=8, variant='attention')), (SelfAttention2d, {})],
)
def test_description_of_attention_alone_has_the_diagonal(x, kind, options):
    layer = build(kind, 16, num_heads=2, **options)
    maps = describe(record(layer, x), [POINT]).maps
    assert maps[-1].label.startswith('weight for itself, mean')


def test_description_of_gsa(x):
    layer = build(GlobalSelfAttention, 16, 2, rel_pos_size=8)
    attention = describe(record(layer, x), [POINT])
    assert 'leaves out the batch norm' in attention.notes[-1]
    maps = {item.label: item for item in attention.maps}
    assert list(maps) == [
        'point: content, mean of heads',
        'content, head 0',
        'content, head 1',
        'point: column',
        'point: row',
        'point: columns, then row',
    ]
    assert all(item.signed for item in maps.values())
    here = np.isfinite(maps['point: column'].values)
    assert here[:, COLUMN].all()
    assert here.sum() == SIZE[0]


def test_one_axis_leaves_out_no_norm(x):
    layer = build(GlobalSelfAttention, 16, 2, rel_pos_size=8, rows=False)
    assert 'batch norm' not in ' '.join(describe(record(layer, x), [POINT]).notes)


def test_description_of_tokens_needs_a_grid_or_the_image():
    layer = build(MultiHeadExternalAttention, 16, 4, 6)
    recording = record(layer, torch.randn(2, 35, 16).double())
    with pytest.raises(ValueError, match='size of the image is not known'):
        describe(recording)
    with pytest.raises(ValueError, match='2 sets of them for 1 image'):
        describe(recording, image_size=(80, 112))
    attention = describe(recording, image_size=(80, 112), batch=2)
    assert attention.notes[0] == 'grid 5 x 7'
    assert len(attention.maps) == 2 * 4
    assert describe(recording, grid=(7, 5)).notes[0] == 'grid 7 x 5'
