"""Recording through hooks: in models of anybody's, and without traces."""

import pytest
import torch
from torch import nn

from attn_plugins.modules import (
    ExternalAttention2d,
    LESA2d,
    MultiHeadExternalAttention,
)
from attn_plugins.visualization import AttentionRecorder, attention_layers


class Foreign(nn.Module):
    """Somebody's model: no host, keyword arguments, work in place after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleDict({'ea': ExternalAttention2d(8, 4)})
        self.lesa = LESA2d(8, num_heads=2, rel_pos_size=8)
        self.unused = ExternalAttention2d(8, 4)

    def forward(self, *, pixels):
        features = self.backbone(input=pixels)
        out = self.blocks['ea'](x=features) + self.lesa(features)
        features.zero_()
        return self.lesa(out)


@pytest.fixture
def model():
    return Foreign().eval()


def hooks(model):
    return [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]


def test_layers_are_found_by_name(model):
    assert list(attention_layers(model)) == ['blocks.ea', 'lesa', 'unused']
    assert list(attention_layers(model, ['lesa'])) == ['lesa']


def test_a_name_that_does_not_exist_lists_those_that_do(model):
    with pytest.raises(ValueError, match=r"'blocks.eb'.*'blocks.ea'\?.*ea, lesa, unu"):
        attention_layers(model, ['blocks.eb'])


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match='Conv2d has none of the layers'):
        AttentionRecorder(nn.Conv2d(1, 1, 1))


@torch.no_grad()
def test_records_what_layers_got(model):
    images = torch.randn(2, 3, 20, 28)
    with AttentionRecorder(model) as recorder:
        expected = model(pixels=images)
    external, lesa = recorder.recordings  # not the one that did not run
    features = model.backbone(images)[:1]
    assert (external.name, lesa.name) == ('blocks.ea', 'lesa')
    # Before the model overwrote it.
    torch.testing.assert_close(external.input, features)
    assert (external.batch, external.calls, lesa.calls) == (2, 1, 2)
    torch.testing.assert_close(recorder.image, images[0])
    assert recorder.batch == 2
    torch.testing.assert_close(model(pixels=images), expected)


def test_the_last_call_counts(model):
    with torch.no_grad(), AttentionRecorder(model, ['lesa']) as recorder:
        for size in (8, 12):
            model(pixels=torch.randn(1, 3, size, size))
    (lesa,) = recorder.recordings
    assert lesa.input.shape[2:] == (3, 3)
    assert recorder.image.shape == (3, 12, 12)


def test_hooks_are_gone_even_after_an_error(model):
    with pytest.raises(RuntimeError), AttentionRecorder(model):
        model(pixels=torch.randn(1, 4, 8, 8))
    assert hooks(model) == []


def test_tokens_and_a_model_without_backbone():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), MultiHeadExternalAttention(6, 2, 4)
    ).eval()
    with torch.no_grad(), AttentionRecorder(model) as recorder:
        model(torch.randn(1, 3, 8, 12))
    assert recorder.image.shape == (3, 8, 12)
    assert recorder.recordings[0].input.shape == (1, 8, 6)
