"""Released EAMLP weights give the released outputs, in mmpretrain's classifier."""

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from released_files import released_input, released_outputs, released_state_dict
from torch import Tensor, nn

import attn_plugins  # noqa: F401 (registers the backbone)
from attn_plugins.released.convert import Conversion, convert

DEPTHS = (7, 14, 19)


def name_of(depth: int) -> str:
    return f'eamlp{depth}_imagenet'


def classifier(conversion: Conversion, **changes) -> nn.Module:
    """The model that the meta data describes, with the converted weights."""
    init_default_scope('mmpretrain')
    classes, channels = conversion.state_dict['head.layers.head.weight'].shape
    head = dict(
        type='VisionTransformerClsHead', num_classes=classes, in_channels=channels
    )
    backbone = {**conversion.meta['backbone'], **changes}
    model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    model.load_state_dict(conversion.state_dict, strict=True)
    return model.eval()


def logits_and_error(model: nn.Module, depth: int) -> tuple[Tensor, float]:
    expected = released_outputs(name_of(depth))
    with torch.no_grad():
        logits = model(released_input(tuple(expected['input_shape'])), mode='tensor')
    wanted = torch.from_numpy(expected['logits'])
    return logits, ((logits - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(
    ('depth', 'millions'), zip(DEPTHS, [6.147, 29.877, 54.559], strict=True)
)
def test_released_outputs(depth, millions):
    conversion = convert(released_state_dict(name_of(depth)))
    model = classifier(conversion)
    logits, error = logits_and_error(model, depth)
    assert logits.shape == (1, 1000)
    assert error < 5e-6  # float32 in another order; 1e-4 would see less
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 3) == millions


@pytest.mark.parametrize('stage', ['attn', 'token_attn'])
def test_softmax_over_slots_is_seen(stage):
    """The comparison above can fail, if by little in the token stage."""
    conversion = convert(released_state_dict(name_of(7)))
    model = classifier(conversion, **{stage: dict(normalization='softmax')})
    assert logits_and_error(model, 7)[1] > 1e-4


def test_position_table_is_the_released_one():
    conversion = convert(released_state_dict(name_of(14)))
    init_default_scope('mmpretrain')
    backbone = MODELS.build(conversion.meta['backbone'])
    table = conversion.state_dict['backbone.pos_embed']
    assert backbone.pos_embed.shape == (1, 197, 384)
    torch.testing.assert_close(backbone.pos_embed, table, rtol=0, atol=1e-6)


def test_every_key_is_accounted_for():
    released = released_state_dict(name_of(7))
    conversion = convert(released)
    assert sorted(conversion.renamed) == sorted(released)
    assert not conversion.dropped
    assert not conversion.missing
    assert not conversion.reshaped


def test_description_and_usage(repo):
    released = released_state_dict(name_of(19))
    conversion = convert(dict(state_dict=released, epoch=310))
    assert conversion.meta == dict(
        converted_from='EAMLP-19, ImageNet',
        depth=19,
        img_size=224,
        num_classes=1000,
        backbone=dict(
            type='EAMLP',
            depth=19,
            img_size=224,
            attn=dict(num_heads=28, num_slots=64, eps=1e-9),
            token_attn=dict(eps=1e-9),
        ),
    )
    assert conversion.left_out == ['epoch']
    usage = conversion.layout.usage(conversion.meta, 'eamlp.pth').split()
    assert 'eamlp.pth' in usage
    assert 'model.backbone.attn.eps=1e-9' in usage
    config = Config.fromfile(repo / usage[2])
    assert config.model.backbone.depth == 19
    assert config.model.backbone.get('img_size', 224) == 224


def of_size(pixels: int, depth: int = 7) -> dict[str, Tensor]:
    released = released_state_dict(name_of(depth))
    released['pos_embed'] = torch.zeros(1, 1 + (pixels // 16) ** 2, 256)
    return released


def test_weights_for_384_pixels_have_a_config(repo):
    conversion = convert(of_size(384))
    assert conversion.meta['img_size'] == 384
    config = conversion.layout.usage(conversion.meta, 'eamlp.pth').split()[2]
    assert Config.fromfile(repo / config).model.backbone.img_size == 384
    assert classifier(conversion).backbone.pos_embed.shape == (1, 577, 256)
    other = convert(of_size(256))
    usage = other.layout.usage(other.meta, 'eamlp.pth')
    assert usage.endswith('model.backbone.img_size=256')


def test_table_of_no_square_image_is_refused():
    released = of_size(224)
    released['pos_embed'] = torch.zeros(1, 1 + 14 * 15, 256)
    with pytest.raises(ValueError, match=r'pos_embed \(1, 211, 256\) is not for a sq'):
        convert(released)
