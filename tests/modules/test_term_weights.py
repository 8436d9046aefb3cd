"""Shares of the local and the context term."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attn_plugins.modules import LESA2d, TermWeights


def layer(**options) -> LESA2d:
    return LESA2d(8, num_heads=2, rel_pos_size=4, **options).eval()


def test_shares_of_the_gate():
    """w = 0.5 everywhere: two thirds are local."""
    lesa = layer()
    nn.init.zeros_(lesa.gate.norm2.weight)
    nn.init.zeros_(lesa.gate.norm2.bias)
    with TermWeights(lesa) as weights:
        lesa(torch.randn(2, 8, 3, 5))
    assert weights.unary == {'': pytest.approx(2 / 3)}


def test_gates_average_over_pixels_channels_and_images():
    lesa = layer()
    x, y = torch.randn(2, 8, 3, 5), torch.randn(1, 8, 4, 4)
    shares = []
    handle = lesa.gate.register_forward_hook(
        lambda module, inputs, w: shares.extend(1 / (1 + w))
    )
    with TermWeights(lesa) as weights:
        lesa(x)
        lesa(y)
    handle.remove()
    expected = sum(share.mean() for share in shares) / 3
    assert weights.unary[''] == pytest.approx(expected.item())


@pytest.mark.parametrize('position', ['2d', 'flat'])
def test_shares_of_the_softmax(position):
    attention = layer(variant='attention', position=position)
    for parameter in attention.context.parameters():
        nn.init.zeros_(parameter)  # all logits equal
    with TermWeights(attention) as weights:
        attention(torch.randn(2, 8, 3, 4))
    assert weights.unary[''] == pytest.approx(1 / 12)


def test_training_is_not_disturbed():
    """Hooks come off, static weights are equal, augmentation has none."""
    model = nn.Sequential(
        layer(variant='static'), layer(variant='augmentation'), layer()
    )
    with TermWeights(model) as weights:
        model(torch.randn(1, 8, 3, 4))
    counted = dict(weights.counts)
    model(torch.randn(1, 8, 3, 4))
    assert weights.counts == counted == {'0': 1, '2': 1}
    assert weights.unary['0'] == 0.5


def test_running_statistics_move_once():
    attention = layer(variant='attention').train()
    twin = copy.deepcopy(attention)
    x = torch.randn(2, 8, 3, 4)
    with TermWeights(attention):
        attention(x)
    twin(x)
    assert_close(dict(attention.named_buffers()), dict(twin.named_buffers()))


def test_a_model_without_lesa_is_refused():
    with pytest.raises(ValueError, match='Conv2d has none'):
        TermWeights(nn.Conv2d(1, 1, 1))
