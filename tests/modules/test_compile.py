"""Every layer compiles as one graph: same values, gradients, running statistics."""

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attn_plugins import modules
from attn_plugins.modules import (
    EANeck,
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
    TokenBatchNorm,
    TokenExternalAttention,
    TokenMLP,
    TokenPerformer,
)

TOKENS = (  # (N, tokens, channels) in place of an image
    MultiHeadExternalAttention,
    TokenBatchNorm,
    TokenExternalAttention,
    TokenMLP,
    TokenPerformer,
)


def lesa(**options) -> LESA2d:
    return LESA2d(16, num_heads=2, rel_pos_size=9, **options)


class Neck(nn.Module):
    """Takes one map and returns one, of two that the neck gets."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = EANeck([16, 16], stages=(0, -1), num_slots=8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.neck((x, x[..., ::2])), dim=-1)


LAYERS = {
    'external': lambda: ExternalAttention2d(16, 8),
    'external, plain': lambda: ExternalAttention2d(16, 8, order='plain'),
    'multi-head external': lambda: MultiHeadExternalAttention(16, 4, 8),
    'self-attention': lambda: SelfAttention2d(16, 2),
    'self-attention, double': lambda: SelfAttention2d(16, 2, normalization='double'),
    'LESA': lesa,
    'LESA, sdpa': lambda: lesa(impl='sdpa'),
    'LESA, flat': lambda: lesa(position='flat'),
    'LESA, static, strided': lambda: lesa(variant='static', stride=2),
    'LESA, attention': lambda: lesa(variant='attention'),
    'LESA, augmentation': lambda: lesa(variant='augmentation'),
    'GSA': lambda: GlobalSelfAttention(16, 2, rel_pos_size=7),
    'GSA, axial content': lambda: GlobalSelfAttention(
        16, 2, rel_pos_size=7, axial_content=True
    ),
    'GSA, max_shift': lambda: GlobalSelfAttention(16, 2, rel_pos_size=7, max_shift=3),
    'EANeck': Neck,
    'tokens, external': lambda: TokenExternalAttention(16, 8),
    'tokens, MLP': lambda: TokenMLP(16, 8),
    'tokens, performer': lambda: TokenPerformer(16, 8),
    'tokens, batch norm': lambda: TokenBatchNorm(nn.BatchNorm1d(16)),
}


def draw(layer: nn.Module) -> Tensor:
    x = torch.randn(2, 16, 6, 9)
    return x.flatten(2).mT if isinstance(layer, TOKENS) else x


def outcome(layer: nn.Module, call, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    out = call(x)
    out.square().sum().backward()
    parameters = {name: p.grad for name, p in layer.named_parameters()}
    return dict(out=out, x=x.grad, **parameters, **dict(layer.named_buffers()))


def check(layer: nn.Module, backend: str) -> None:
    torch.compiler.reset()  # each variant of a class counts as a recompilation
    # In float64: a compiler sums in another order, and gradients can be all but zero.
    layer = layer.double()
    x, twin = draw(layer).double(), copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, dynamic=False, backend=backend)
    expected = outcome(layer, layer, x)
    found = outcome(twin, compiled, x)
    for name, value in found.items():
        assert_close(value, expected[name], msg=lambda m, n=name: f'{n} {m}')


def test_no_layer_is_left_out():
    tried = {type(part) for make in LAYERS.values() for part in make().modules()}
    public = {getattr(modules, name) for name in modules.__all__}
    assert {layer for layer in public if issubclass(layer, nn.Module)} <= tried


@pytest.mark.parametrize('name', LAYERS)
def test_a_training_step_compiles_as_one_graph(name):
    check(LAYERS[name](), 'aot_eager')


def test_lesas_loop_is_one_operator():
    """Of 54 queries, in blocks of a few, there is no trace in the graph."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    layer = lesa().eval()
    x = draw(layer)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend=backend)
    with torch.no_grad():
        assert_close(compiled(x), layer(x))
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes]
    assert sum('relative_attention' in target for target in targets) == 1
    assert len(targets) < 100


@pytest.mark.slow
@pytest.mark.parametrize('name', ['external', 'LESA'])
def test_compiles_with_the_default_backend(name):
    if shutil.which('g++') is None:
        pytest.skip('torch.compile makes C++, and there is no g++')
    check(LAYERS[name]().eval(), 'inductor')
