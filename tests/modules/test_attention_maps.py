"""Maps that layers give: applied to the values they are the layer's own output."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from attn_plugins.functional import reference, resize_table
from attn_plugins.modules import (
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
    TokenExternalAttention,
    TokenPerformer,
)

SIZE = (4, 5)
QUERIES = [(1, 3), (0, 0), (3, 4)]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, *SIZE, dtype=torch.double)


def build(kind: type, *args, **options) -> nn.Module:
    """A layer in eval mode whose norms and tables are not those of its start."""
    layer = kind(*args, **options).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            if name.endswith(('running_mean', 'running_var')):
                buffer.uniform_(0.5, 1.5)
    return layer


def at_queries(maps: Tensor) -> Tensor:
    """``(..., H, W)`` to ``(..., Q)``."""
    return torch.stack([maps[..., y, x] for y, x in QUERIES], dim=-1)


@torch.no_grad()
@pytest.mark.parametrize(
    'options',
    [dict(), dict(tied=True), dict(normalization='softmax'), dict(eps=0.1)],
)
@pytest.mark.parametrize('order', ['folded', 'plain'])
def test_external_attention(x, order, options):
    layer = build(ExternalAttention2d, 8, 6, order=order, **options)
    maps = layer.attention(x)
    assert maps.shape == (2, 6, *SIZE)
    if 'eps' not in options:
        assert_close(maps.sum(1), torch.ones(2, *SIZE).double())
    value = layer.key.weight if layer.value is None else layer.value.weight.T
    out = torch.einsum('bshw,sd,cd->bchw', maps, value, layer.out.weight)
    assert_close(layer(x), F.relu(x + layer.norm(out)))


@torch.no_grad()
@pytest.mark.parametrize('normalization', ['double', 'softmax'])
def test_multi_head_external_attention(normalization):
    layer = build(MultiHeadExternalAttention, 8, 4, 6, normalization=normalization)
    tokens = torch.randn(2, 21, 8, dtype=torch.double)
    maps = layer.attention(tokens)
    assert maps.shape == (2, 4, 6, 21)
    out = torch.einsum('bhsn,ds->bnhd', maps, layer.value.weight) + layer.value.bias
    assert_close(layer(tokens), layer.out(out.flatten(2)))


@torch.no_grad()
@pytest.mark.parametrize('normalization', ['double', 'softmax'])
def test_token_external_attention(normalization):
    layer = build(TokenExternalAttention, 12, 8, 6, normalization=normalization)
    tokens = torch.randn(2, 21, 12, dtype=torch.double)
    maps = layer.attention(tokens)
    assert maps.shape == (2, 6, 21)
    expected = layer.query(tokens) + layer.out(layer.value(maps.mT))
    assert_close(layer(tokens), expected)


@torch.no_grad()
def test_token_performer():
    layer = build(TokenPerformer, 6, 4)
    tokens = torch.randn(2, 9, 6, dtype=torch.double)
    weights = layer.attention(tokens, [3, 0])
    assert weights.shape == (2, 2, 9)
    v = layer.qkv(tokens)[..., 8:]
    assert_close(layer(tokens)[:, [3, 0]], v[:, [3, 0]] + layer.out(weights @ v))


@torch.no_grad()
@pytest.mark.parametrize('normalization', ['softmax', 'double'])
def test_self_attention(x, normalization):
    layer = build(SelfAttention2d, 8, 2, normalization=normalization)
    maps = layer.attention(x, QUERIES)
    assert maps.queries.shape == (2, 3, 2, *SIZE)
    v = layer.qkv(x.flatten(2).mT)[..., 16:].unflatten(-1, (2, -1))
    out = torch.einsum('bqhn,bnhd->bqhd', maps.queries.flatten(3), v).flatten(2)
    out = layer.norm(layer.out(out).mT.unsqueeze(-1)).squeeze(-1)  # (B, C, Q)
    assert_close((at_queries(x) + out).relu(), at_queries(layer(x)))
    check_own(maps)


def check_own(maps) -> None:
    """The diagonal is what each query gives to itself."""
    for index, (row, column) in enumerate(QUERIES):
        expected = maps.queries[:, index, :, row, column]
        assert_close(maps.own[..., row, column], expected)


@torch.no_grad()
@pytest.mark.parametrize('variant', ['dynamic', 'static', 'attention', 'augmentation'])
@pytest.mark.parametrize('position', ['2d', 'flat'])
def test_lesa(x, position, variant):
    size = 5 if position == 'flat' else (3, 7)
    options = dict(num_heads=2, rel_pos_size=size, variant=variant, position=position)
    layer = build(LESA2d, 8, **options)
    maps = layer.attention(x, QUERIES)
    assert maps.queries.shape == (2, 3, 2, *SIZE)
    context = layer.context
    q, k, v = context.heads(x)
    norm = context.similarity_norm
    if position == 'flat':
        expected = reference.lesa_flat_attention(q, k, v, context.rel, size, norm)
        expected = expected[:, :, :, 0]  # the sums of the values
    else:
        rel_h = resize_table(context.rel_h, SIZE[0])
        rel_w = resize_table(context.rel_w, SIZE[1])
        expected = reference.lesa_attention(q, k, v, rel_h, rel_w, norm)
    out = torch.einsum('bqhyx,bhvyx->bhvq', maps.queries, v)
    assert_close(out, at_queries(expected))
    if variant == 'attention':
        check_own(maps)
    else:
        assert maps.own is None
    if variant == 'dynamic':
        local, context = layer.local(x), layer.context(x)
        assert_close(local + maps.gate * context, layer(x))
        share = maps.context_share
        assert_close(share / (1 - share), maps.gate)
    else:
        assert maps.gate is None


def test_lesa_in_training_mode_is_refused(x):
    with pytest.raises(ValueError, match=r'call eval\(\)'):
        LESA2d(8, num_heads=2, rel_pos_size=8).double().attention(x, QUERIES)


def test_one_row_never_all():
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
        layer.context.query_weights(x, QUERIES)
    assert largest <= 4 * x.numel()


@torch.no_grad()
# Tables that are cut off, one of each, and stretched on both axes.
@pytest.mark.parametrize('rel_pos_size', [(8, 8), (6, 4), (3, 4)])
@pytest.mark.parametrize('max_shift', [None, 2])
@pytest.mark.parametrize('axial_content', [False, True])
@pytest.mark.parametrize('axes', ['columns, rows', 'columns', 'rows'])
def test_gsa(x, axes, axial_content, max_shift, rel_pos_size):
    """Content plus (columns, norm, row) at a query is the layer's output there."""
    layer = build(
        GlobalSelfAttention,
        8,
        2,
        rel_pos_size=rel_pos_size,
        columns='columns' in axes,
        rows='rows' in axes,
        axial_content=axial_content,
        max_shift=max_shift,
    )
    maps = layer.attention(x, QUERIES)
    v = F.conv2d(x, layer.qvk.weight).split(8, 1)[1].unflatten(1, (2, -1))
    found = []
    for index, (row, column) in enumerate(QUERIES):
        out = v[..., row, :]  # (B, h, D, W)
        if 'columns' in axes:
            out = torch.einsum('bhyx,bhdyx->bhdx', maps.columns[:, index], v)
        if axes == 'columns, rows':
            out = layer.norm(out.flatten(1, 2).unsqueeze(2)).view(out.shape)
        if 'rows' in axes:
            out = torch.einsum('bhx,bhdx->bhd', maps.rows[:, index], out)
        else:
            out = out[..., column]
        if maps.content is not None:
            out = out + torch.einsum('bhyx,bhdyx->bhd', maps.content[:, index], v)
        found.append(out.flatten(1))
    assert_close(torch.stack(found, -1), at_queries(layer(x)))
    assert (maps.content is None) == axial_content
    assert (maps.columns is None) == ('columns' not in axes)
    assert (maps.rows is None) == ('rows' not in axes)
    if axes == 'columns, rows':
        assert maps.both.shape == (2, 3, 2, *SIZE)
