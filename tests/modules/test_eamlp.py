"""The layers of EAMLP against the loops, their odd inputs, their dead parameters."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attn_plugins.functional import reference
from attn_plugins.modules import (
    MultiHeadExternalAttention,
    TokenBatchNorm,
    TokenExternalAttention,
    TokenMLP,
    TokenPerformer,
)

LAYERS = [TokenExternalAttention, TokenPerformer, TokenMLP]


def in_double(layer: nn.Module) -> nn.Module:
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def assert_same(layer, slow, x) -> None:
    """Compares outputs, and the gradients of input and parameters."""
    x = x.requires_grad_()
    out, expected = layer(x), slow(x)
    assert_close(out, expected)
    weight = torch.randn_like(out)
    leaves = [x, *layer.parameters()]
    gradients = torch.autograd.grad((out * weight).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ('normalization', 'eps'), [('double', 0.0), ('double', 0.1), ('softmax', 0.0)]
)
@pytest.mark.parametrize(('slots', 'tokens'), [(4, 5), (3, 9), (8, 1), (None, 2)])
def test_token_external_attention_equals_algorithm_1(slots, tokens, normalization, eps):
    options = dict(normalization=normalization, eps=eps)
    layer = in_double(TokenExternalAttention(6, 4, slots, **options))

    def slow(x):
        query = layer.query(x)
        attended = reference.external_attention(
            query, layer.key.weight, layer.value.weight.T, **options
        )
        return query + layer.out(attended + layer.value.bias)

    assert_same(layer, slow, torch.randn(2, tokens, 6, dtype=torch.float64))


@pytest.mark.parametrize('tokens', [1, 5, 9])
def test_token_performer_equals_the_loops(tokens):
    layer = in_double(TokenPerformer(6, 4, num_features=3))

    def slow(x):
        q, k, v = layer.qkv(x).split(4, dim=-1)
        attended = reference.performer_attention(q, k, v, layer.features)
        return v + layer.out(attended)

    assert_same(layer, slow, 0.1 * torch.randn(2, tokens, 6, dtype=torch.float64))


def test_token_mlp_takes_each_token_alone():
    layer = TokenMLP(6, 4)
    x = torch.randn(2, 5, 6)
    alone = [layer(token) for token in x.split(1, dim=1)]
    assert_close(layer(x), torch.cat(alone, dim=1))
    assert layer.query.out_features == 16


def test_released_shapes_of_the_token_stage():
    layer = TokenExternalAttention(147, 64)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        'query.weight': (64, 147),
        'query.bias': (64,),
        'key.weight': (128, 64),
        'value.weight': (64, 128),
        'value.bias': (64,),
        'out.weight': (64, 64),
        'out.bias': (64,),
    }


def test_random_features_are_orthogonal_fixed_and_saved():
    layer = TokenPerformer(147, 64)
    features = layer.features
    assert features.shape == (32, 64)
    assert_close(features @ features.T, 32 * torch.eye(32), rtol=0, atol=1e-4)
    assert 'features' in layer.state_dict()
    assert 'features' not in dict(layer.named_parameters())


@pytest.mark.parametrize('layer_type', LAYERS)
def test_tokens_can_be_permuted(layer_type):
    layer = in_double(layer_type(8, 4))
    x, order = torch.randn(2, 9, 8, dtype=torch.float64), torch.randperm(9)
    assert_close(layer(x[:, order]), layer(x)[:, order])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [1, 100])
@pytest.mark.parametrize('layer_type', LAYERS)
def test_half_precision_is_finite(layer_type, scale, dtype):
    layer = layer_type(8, 4).to(dtype)
    x = (scale * torch.randn(2, 3136, 8)).to(dtype).requires_grad_()
    out = layer(x)
    out.float().mean().backward()
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize('layer_type', LAYERS)
def test_initial_weights_survive_a_parent(layer_type):
    layer = layer_type(64, 32)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7)
    layer.init_weights()
    for name, parameter in layer.named_parameters():
        if name.endswith('bias'):
            assert not parameter.any()
        else:
            assert 0.01 < parameter.std() < 0.03


@pytest.mark.parametrize('layer_type', LAYERS)
def test_wrong_input_shape(layer_type):
    name = layer_type.__name__
    with pytest.raises(ValueError, match=rf'{name}.* expects \(B, N, 8\), got'):
        layer_type(8, 4)(torch.randn(2, 5, 7))


@pytest.mark.parametrize(
    ('layer_type', 'options', 'message'),
    [
        (TokenExternalAttention, dict(eps=-1), 'eps must be >= 0'),
        (TokenPerformer, dict(num_features=0), 'num_features must be a positive'),
        (TokenPerformer, dict(out_channels=0), 'out_channels must be a positive'),
        (TokenMLP, dict(mid_channels=0), 'mid_channels must be a positive'),
    ],
)
def test_bad_arguments(layer_type, options, message):
    with pytest.raises(ValueError, match=message):
        layer_type(**{'in_channels': 8, 'out_channels': 4, **options})


@pytest.mark.parametrize('bias', [True, False])
def test_dead_biases_have_zero_gradient_and_no_effect(bias):
    """The first softmax ignores what is added to all of a slot's logits."""
    layer = in_double(MultiHeadExternalAttention(8, 2, 4, bias=bias))
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    out = layer(x)
    out.square().sum().backward()
    dead = {'query.bias', 'key.bias'}
    for name, parameter in layer.named_parameters():
        assert bool(parameter.grad.any()) == (name not in dead), name
    with torch.no_grad():
        layer.query.bias.add_(3)
        if bias:
            layer.key.bias.add_(torch.arange(4))
    assert_close(layer(x), out)


def test_biases_live_under_softmax_over_slots():
    layer = in_double(MultiHeadExternalAttention(8, 2, 4, normalization='softmax'))
    layer(torch.randn(2, 5, 8, dtype=torch.float64)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


class TestTokenBatchNorm:
    def test_is_over_all_tokens_of_all_images(self):
        norm = TokenBatchNorm(nn.BatchNorm1d(3))
        x = torch.randn(4, 7, 3) * torch.tensor([1.0, 10.0, 100.0]) + 5
        out = norm(x)
        assert_close(out.mean(dim=(0, 1)), torch.zeros(3), rtol=0, atol=1e-5)
        assert_close(
            out.var(dim=(0, 1), correction=0), torch.ones(3), rtol=0, atol=1e-4
        )
        unbiased = x.var(dim=(0, 1))
        assert_close(norm.norm.running_var, 0.9 + 0.1 * unbiased)

    def test_survives_conversion_to_synchronised_norms(self):
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(
            TokenBatchNorm(nn.BatchNorm1d(3))
        )
        assert isinstance(norm.norm, nn.SyncBatchNorm)
        assert norm.eval()(torch.randn(4, 7, 3)).shape == (4, 7, 3)
