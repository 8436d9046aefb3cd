"""Maps against the layers: the weights that are shown give the layer's own output."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attn_plugins.functional.external import external_attention
from attn_plugins.functional.lesa import relative_attention
from attn_plugins.functional.reference import lesa_flat_attention
from attn_plugins.modules import (
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
    TokenExternalAttention,
)
from attn_plugins.visualization import (
    AttentionRecorder,
    axial_weights,
    content_weights,
    describe,
    head_slot_maps,
    own_weights,
    point_attention,
    slot_maps,
    token_slot_maps,
)
from attn_plugins.visualization.attention import cell, most_active, token_grid

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


@pytest.mark.parametrize('options', [{}, {'tied': True}, {'normalization': 'softmax'}])
@pytest.mark.parametrize('order', ['folded', 'plain'])
def test_slot_maps_give_the_output(x, order, options):
    layer = build(ExternalAttention2d, 16, 6, order=order, **options)
    maps = slot_maps(layer, x)
    assert maps.shape == (6, *SIZE)
    torch.testing.assert_close(maps.sum(0), torch.ones(SIZE, dtype=torch.double))
    value = layer.key.weight if layer.value is None else layer.value.weight.T
    out = torch.einsum('shw,sd->dhw', maps, value)
    out = torch.einsum('dhw,cd->chw', out, layer.out.weight).unsqueeze(0)
    expected = F.relu(x[:1] + layer.norm(out))
    torch.testing.assert_close(layer(x)[:1], expected)


def test_slot_maps_of_both_orders_are_the_same(x):
    layer = build(ExternalAttention2d, 16, 6, eps=1e-9)
    layer.order = 'plain'
    plain = slot_maps(layer, x)
    layer.order = 'folded'
    assert torch.equal(plain, slot_maps(layer, x))


@pytest.mark.parametrize('class_tokens', [0, 1])
def test_head_slot_maps_give_the_output(class_tokens):
    layer = build(MultiHeadExternalAttention, 16, 4, 6)
    tokens = torch.randn(2, 35 + class_tokens, 16, dtype=torch.double)
    maps = head_slot_maps(layer, tokens, SIZE)
    assert maps.shape == (4, 6, *SIZE)
    heads = layer.query(tokens[0]).unflatten(-1, (4, -1)).permute(1, 2, 0)
    value = layer.value.weight.T
    expected = external_attention(
        heads, layer.key.weight, value, logit_bias=layer.key.bias
    )[..., class_tokens:]
    out = torch.einsum('hsyx,sd->hdyx', maps, value).flatten(2)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('normalization', ['double', 'softmax'])
def test_token_slot_maps_give_the_output(normalization):
    layer = build(TokenExternalAttention, 12, 8, 6, normalization=normalization)
    tokens = torch.randn(2, 35, 12, dtype=torch.double)
    maps = token_slot_maps(layer, tokens, SIZE)
    assert maps.shape == (6, *SIZE)
    attn = maps.flatten(1).mT
    expected = layer(tokens)[0]
    torch.testing.assert_close(
        layer.query(tokens[0]) + layer.out(layer.value(attn)), expected
    )
    with pytest.raises(ValueError, match=r'tokens, 35 .* got 7 x 7'):
        token_slot_maps(layer, tokens, (7, 7))


def test_description_of_the_tokens_to_token_stage():
    layer = build(TokenExternalAttention, 12, 8, 6)
    recording = record(layer, torch.randn(1, 56 * 56, 12).double())
    attention = describe(recording, image_size=(224, 224), num_slots=3)
    assert attention.notes[0] == 'grid 56 x 56'
    assert attention.notes[1] == '3 most active of 6 slots'
    assert [item.values.shape for item in attention.maps] == [(56, 56)] * 3
    chosen = describe(recording, image_size=(224, 224), slots=[4]).maps
    assert [item.label[:7] for item in chosen] == ['slot 4:']


def test_a_grid_that_does_not_fit():
    layer = build(MultiHeadExternalAttention, 16, 4, 6)
    with pytest.raises(ValueError, match=r'tokens, 37 .* got 5 x 7'):
        head_slot_maps(layer, torch.randn(1, 37, 16).double(), SIZE)


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


@torch.no_grad()
@pytest.mark.parametrize('variant', ['dynamic', 'static', 'attention', 'augmentation'])
def test_point_attention_of_lesa_gives_the_output(x, variant):
    options = dict(num_heads=2, rel_pos_size=(4, 9), variant=variant)
    layer = build(LESA2d, 16, **options)
    weights = point_attention(layer, x, POINT)
    assert weights.shape == (2, *SIZE)
    q, k, v = layer.context.heads(x)
    expected = relative_attention(q, *_scaled(layer, q, k, v))[0, :, :, ROW, COLUMN]
    out = torch.einsum('hyx,hvyx->hv', weights.double(), v[0])
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


def _scaled(layer, q, k, v):
    k, rel_h, rel_w = layer.context.scaled(q, k)
    return k, v, rel_h, rel_w


@torch.no_grad()
def test_point_attention_of_the_flat_form_gives_the_output(x):
    layer = build(LESA2d, 16, num_heads=2, rel_pos_size=8, position='flat')
    context = layer.context
    weights = point_attention(layer, x, POINT)
    q, k, v = context.heads(x)
    expected = lesa_flat_attention(q, k, v, context.rel, 8, context.similarity_norm)
    out = torch.einsum('hyx,hvyx->hv', weights.double(), v[0])
    torch.testing.assert_close(
        out, expected[0, :, :, 0, ROW, COLUMN], atol=1e-6, rtol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize('normalization', ['softmax', 'double'])
def test_point_attention_of_self_attention_gives_the_output(x, normalization):
    layer = build(SelfAttention2d, 16, 2, normalization=normalization)
    weights = point_attention(layer, x, POINT).double()
    v = layer.qkv(x[0].flatten(1).mT).chunk(3, -1)[2]
    v = v.unflatten(-1, (2, -1)).unflatten(0, SIZE)
    out = torch.einsum('hyx,yxhd->hd', weights, v).flatten()
    out = x[0, :, ROW, COLUMN] + layer.norm(layer.out(out).view(1, -1, 1, 1)).flatten()
    expected = layer(x)[0, :, ROW, COLUMN]
    torch.testing.assert_close(out.relu(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        (LESA2d, dict(num_heads=2, rel_pos_size=8, variant='attention')),
        (
            LESA2d,
            dict(num_heads=2, rel_pos_size=8, variant='attention', position='flat'),
        ),
        (SelfAttention2d, dict(num_heads=2)),
        (SelfAttention2d, dict(num_heads=2, normalization='double')),
    ],
)
def test_own_weights_are_the_diagonal(x, kind, options):
    layer = build(kind, 16, **options)
    own = own_weights(layer, x)
    for row, column in ((0, 0), (ROW, COLUMN), (4, 6)):
        point = (column + 0.5) / SIZE[1], (row + 0.5) / SIZE[0]
        expected = point_attention(layer, x, point)[:, row, column]
        torch.testing.assert_close(own[:, row, column].float(), expected)


def test_one_row_never_all(monkeypatch):
    """A map whose similarity, 4096 x 4096 for 2 heads, would be seen."""
    layer = build(LESA2d, 16, num_heads=2, rel_pos_size=8).float()
    x = torch.randn(1, 16, 64, 64)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        point_attention(layer, x, POINT)
    assert largest <= 4 * x.numel()


@pytest.mark.parametrize('kind', [LESA2d, SelfAttention2d])
def test_training_mode_is_refused(x, kind):
    options = dict(rel_pos_size=8) if kind is LESA2d else {}
    layer = kind(16, **options).double()
    with pytest.raises(ValueError, match=r'call eval\(\)'):
        point_attention(layer, x, POINT)


@torch.no_grad()
# Tables that are cut off, one of each, and stretched on both axes.
@pytest.mark.parametrize('rel_pos_size', [(8, 8), (6, 5), (3, 4)])
@pytest.mark.parametrize('max_shift', [None, 2])
@pytest.mark.parametrize('axial_content', [False, True])
def test_gsa_weights_give_the_output(x, axial_content, max_shift, rel_pos_size):
    """Content plus (columns, norm, row) at the point is the layer's output there."""
    layer = build(
        GlobalSelfAttention,
        16,
        2,
        rel_pos_size=rel_pos_size,
        axial_content=axial_content,
        max_shift=max_shift,
    )
    _, v, *_ = F.conv2d(x[:1], layer.qvk.weight)[0].split(16)
    v = v.unflatten(0, (2, -1))
    of_columns, of_row = axial_weights(layer, x, POINT)
    # The columns' outputs in the row of the point, then the norm between.
    middle = torch.einsum('hyx,hdyx->hdx', of_columns, v)
    middle = layer.norm(middle.reshape(1, 16, 1, -1)).view(middle.shape)
    out = torch.einsum('hx,hdx->hd', of_row, middle)
    if not axial_content:
        content = content_weights(layer, x, POINT)
        out = out + torch.einsum('hyx,hdyx->hd', content, v)
    torch.testing.assert_close(out.flatten(), layer(x)[0, :, ROW, COLUMN])


@torch.no_grad()
@pytest.mark.parametrize('axial_content', [False, True])
@pytest.mark.parametrize('axis', ['columns', 'rows'])
def test_gsa_with_one_axis_gives_the_output(x, axis, axial_content):
    other = {'columns': 'rows', 'rows': 'columns'}[axis]
    options = {other: False, 'axial_content': axial_content, 'content': axial_content}
    layer = build(GlobalSelfAttention, 16, 2, rel_pos_size=8, **options)
    v = F.conv2d(x[:1], layer.qvk.weight)[0].split(16)[1].unflatten(0, (2, -1))
    of_columns, of_row = axial_weights(layer, x, POINT)
    if axis == 'columns':
        assert of_row is None
        out = torch.einsum('hy,hdy->hd', of_columns[..., COLUMN], v[..., COLUMN])
    else:
        assert of_columns is None
        out = torch.einsum('hx,hdx->hd', of_row, v[:, :, ROW])
    torch.testing.assert_close(out.flatten(), layer(x)[0, :, ROW, COLUMN])
    labels = [item.label for item in describe(record(layer, x), [POINT]).maps]
    assert labels == [f'point: {axis[:-1]}']


def test_description_of_external_attention(x):
    layer = build(ExternalAttention2d, 16, 6)
    attention = describe(record(layer, x), num_slots=2)
    assert attention.kind == 'ExternalAttention2d'
    assert attention.notes[:2] == ['map 5 x 7', '2 most active of 6 slots']
    maps = slot_maps(layer, x)
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
    with torch.no_grad():
        local, context = layer.local(x[:1]), layer.context(x[:1])
        expected = layer.gate(local, context)[0].mean(0)
    np.testing.assert_allclose(gate.values, expected.numpy(), rtol=1e-5)
    two = describe(record(layer, x), [POINT, (0, 0)]).maps
    assert [item.label for item in two[1:]] == [
        'point 1 attends, mean of heads',
        'point 2 attends, mean of heads',
    ]


def test_description_of_attention_alone_has_the_diagonal(x):
    layer = build(LESA2d, 16, num_heads=2, rel_pos_size=8, variant='attention')
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
