"""The self-attention baseline as a layer."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attn_plugins.functional import reference
from attn_plugins.modules import SelfAttention2d


@pytest.mark.parametrize('normalization', ['softmax', 'double'])
def test_equals_reference_with_residual_norm_relu(normalization):
    layer = SelfAttention2d(4, normalization=normalization).double().eval()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    q, k, v = layer.qkv(x.flatten(2).mT).chunk(3, dim=-1)
    attended = reference.self_attention(q, k, v, scale=0.5, normalization=normalization)
    out = layer.out(attended).mT.reshape(x.shape)
    assert_close(layer(x), (x + layer.norm(out)).relu())


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (9, 1), (33, 47)])
@pytest.mark.parametrize('num_heads', [1, 4])
def test_keeps_any_shape(size, num_heads):
    layer = SelfAttention2d(8, num_heads)
    x = torch.randn(2, 8, *size)
    out = layer(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_parameter_count_at_table_xii():
    """q, k, v and output of 512: 1.05 M; the paper prints 1.00 M."""
    layer = SelfAttention2d(512, norm_layer=nn.Identity)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 512 * 512 == 1_048_576


def test_heads_divide_the_channels():
    with pytest.raises(
        ValueError, match=r'in_channels must be divisible by num_heads=3'
    ):
        SelfAttention2d(8, 3)
