"""Released EANet weights give the released outputs, through the shipped configs."""

import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from released_files import released_input, released_outputs, released_state_dict

from attn_plugins.released.convert import convert


def build(repo, depth: int, **backbone):
    init_default_scope('mmseg')
    cfg = Config.fromfile(repo / f'configs/eanet_r{depth}_voc.py').model
    cfg.update(pretrained=None, auxiliary_head=None)
    cfg.backbone.update(norm_cfg=dict(type='BN'), **backbone)
    cfg.decode_head.update(
        norm_cfg=dict(type='BN'),
        attn=dict(type='ExternalAttention2d', num_slots=64, eps=1e-9),
    )
    return MODELS.build(cfg).eval()


def relative_error(actual, expected) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('depth', [50, 101])
def test_released_outputs(repo, depth):
    name = f'eanet_resnet{depth}_voc'
    expected = {k: torch.from_numpy(v) for k, v in released_outputs(name).items()}
    model = build(repo, depth)
    model.load_state_dict(convert(released_state_dict(name)).state_dict, strict=True)
    attended = []
    model.decode_head.attn.register_forward_hook(lambda *args: attended.append(args[2]))
    with torch.no_grad():
        image = released_input(tuple(expected['input_shape'].tolist()))
        logits = model(image, mode='tensor')
    assert logits.shape == expected['logits'].shape
    assert relative_error(logits, expected['logits']) < 1e-4
    means = attended[0].mean(dim=(2, 3))
    assert relative_error(means, expected['attended_mean']) < 1e-4


def test_multi_grid_must_be_absolute_dilations(repo):
    """The parity above can fail: with the relative grid 1-2-4 the network differs."""
    name = 'eanet_resnet50_voc'
    expected = released_outputs(name)
    model = build(repo, 50, multi_grid=(1, 2, 4))
    model.load_state_dict(convert(released_state_dict(name)).state_dict, strict=True)
    with torch.no_grad():
        logits = model(released_input(tuple(expected['input_shape'])), mode='tensor')
    assert relative_error(logits, torch.from_numpy(expected['logits'])) > 0.01


def test_description(repo):
    conversion = convert(released_state_dict('eanet_resnet101_voc'))
    assert conversion.meta == dict(
        converted_from='EANet, ResNet-101, Pascal VOC',
        depth=101,
        num_slots=64,
        num_classes=21,
    )
    usage = conversion.layout.usage(conversion.meta, 'eanet.pth')
    config = usage.split()[2]
    assert (repo / config).is_file()
    assert 'eanet.pth' in usage
    assert 'model.decode_head.attn.eps=1e-9' in usage
