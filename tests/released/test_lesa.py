"""Released LESA weights give the released outputs, in backbones and whole models."""

import pytest
import torch

pytest.importorskip('mmdet')
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from released_files import (
    released_input,
    released_outputs,
    released_state_dict,
    thin_state_dict,
)
from torch import Tensor, nn

import attn_plugins  # noqa: F401 (registers the backbone)
from attn_plugins.released.convert import Conversion, convert
from attn_plugins.released.lesa import LAYOUTS

CLASSIFIERS = ['lesa_resnet50_imagenet', 'lesa_wrn50_imagenet']
BACKBONES = ['lesa_resnet50_dcn_detection', 'lesa_wrn50_dcn_detection']
HEADS = {
    'Mask R-CNN with LESA-50': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'HTC with LESA-50': 'htc/htc_r50_fpn_1x_coco.py',
    'HTC without semantic branch, with LESA-50': (
        'htc/htc-without-semantic_r50_fpn_1x_coco.py'
    ),
}


def backbone(conversion: Conversion) -> nn.Module:
    """The backbone that the meta data describes, with the converted weights."""
    init_default_scope('mmdet')
    model = MODELS.build(conversion.meta['backbone'])
    model.eval()  # mmdet's returns nothing
    prefix = 'backbone.'
    weights = {
        key.removeprefix(prefix): value
        for key, value in conversion.state_dict.items()
        if key.startswith(prefix)
    }
    model.load_state_dict(weights, strict=True)
    return model


def released(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(v) for key, v in released_outputs(name).items()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def run(model: nn.Module, shape: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(released_input(tuple(shape.tolist())))


@pytest.mark.parametrize('name', BACKBONES)
def test_detection_backbone(name):
    expected = released(name)
    conversion = convert(released_state_dict(name))
    maps = run(backbone(conversion), expected['input_shape'])
    for stage, actual in enumerate(maps, start=1):
        error = relative_error(actual.mean(dim=(2, 3)), expected[f'stage{stage}_mean'])
        assert error < 1e-4, (stage, error)
    # The stored map is rounded to half precision, by up to 5e-4 of a value.
    rounded = maps[-1].half()
    assert (rounded == expected['stage4']).float().mean() > 0.99
    assert relative_error(rounded.float(), expected['stage4'].float()) < 1e-3


@pytest.mark.parametrize(
    ('name', 'millions'), zip(CLASSIFIERS, [23.778, 61.146], strict=True)
)
def test_classifier(name, millions):
    expected = released(name)
    conversion = convert(released_state_dict(name))
    model = backbone(conversion)
    fc = [conversion.state_dict[f'head.fc.{leaf}'] for leaf in ('weight', 'bias')]
    count = sum(weight.numel() for weight in (*fc, *model.parameters()))
    assert round(count / 1e6, 3) == millions
    stage3, stage4 = (
        x.mean(dim=(2, 3)) for x in run(model, expected['input_shape'])[2:]
    )
    assert relative_error(stage3, expected['layer3_mean']) < 1e-4
    assert relative_error(stage4, expected['layer4_mean']) < 1e-4
    assert relative_error(F.linear(stage4, *fc), expected['logits']) < 1e-4


def test_exchanged_tables_are_seen():
    """The comparisons can fail: rows for columns, and the map is another."""
    name = BACKBONES[0]
    expected = released(name)
    exchanged = {'rel_height': 'rel_width', 'rel_width': 'rel_height'}
    state_dict = {
        '.'.join(exchanged.get(part, part) for part in key.split('.')): value
        for key, value in released_state_dict(name).items()
    }
    stage4 = run(backbone(convert(state_dict)), expected['input_shape'])[-1]
    assert (stage4.half() == expected['stage4']).float().mean() < 0.5


def test_whole_classifier():
    """In mmpretrain, with strict loading."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS

    name = CLASSIFIERS[0]
    expected = released(name)
    conversion = convert(released_state_dict(name))
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=conversion.meta['backbone'],
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048),
        )
    ).eval()
    model.load_state_dict(conversion.state_dict, strict=True)
    with torch.no_grad():
        feature = model.extract_feat(
            released_input(tuple(expected['input_shape'].tolist()))
        )
        logits = model.head(feature)
    assert relative_error(logits, expected['logits']) < 1e-4


@pytest.mark.parametrize(
    ('heads', 'wide'), zip(HEADS, [False, True, False], strict=True)
)
def test_whole_detector_has_the_keys_and_shapes_of_todays_mmdet(heads, wide):
    """A detector of mmdet 2.x is a released backbone with heads of the same names."""
    init_default_scope('mmdet')
    config = get_config(f'mmdet::{HEADS[heads]}').model
    conversion = convert(released_state_dict(BACKBONES[wide]))
    config.backbone = conversion.meta['backbone']
    with torch.device('meta'):
        model = MODELS.build(config)
    parts = {
        key: torch.zeros(()).expand(value.shape)
        for key, value in model.state_dict().items()
        if not key.startswith('backbone.')
    }
    detector = convert(
        {
            **{
                f'backbone.{key}': value
                for key, value in released_state_dict(BACKBONES[wide]).items()
            },
            **parts,
        }
    )
    assert detector.layout.name == f'{heads}, deformable'
    assert detector.meta['backbone'] == config.backbone
    assert set(parts) <= set(detector.kept)
    shapes = {key: value.shape for key, value in detector.state_dict.items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda layout: layout.name)
def test_keys_are_those_of_the_model(layout):
    """All of them, with and without deformable convolutions."""
    init_default_scope('mmdet')
    flat = layout.name == 'LESA-50 classifier'
    dcn = layout.name.endswith(', deformable')
    name = CLASSIFIERS[0] if flat else BACKBONES[0]
    meta = convert(thin_state_dict(name)).meta
    config = meta['backbone']
    if not flat and not dcn:
        del config['dcn'], config['stage_with_dcn']
    with torch.device('meta'):
        model = MODELS.build(config)
    new = {entry.new for entry in layout.table.values() if entry.new}
    backbone_keys = {key for key in new if key.startswith('backbone.')}
    assert backbone_keys == {f'backbone.{key}' for key in model.state_dict()}


def table(length: int, dim: int = 4) -> Tensor:
    return torch.zeros(length, dim)


def with_tables(size: int) -> dict[str, Tensor]:
    """A released detection backbone that was made for images of another size."""
    state_dict = thin_state_dict(BACKBONES[0])
    for key in state_dict:
        if key.endswith(('rel_height', 'rel_width')):
            stride = 16 if key.startswith(('layer3', 'layer4.0')) else 32
            state_dict[key] = table(2 * -(-size // stride) - 1)
    return state_dict


@pytest.mark.parametrize(
    ('size', 'found'), [(256, 256), (1024, 1024), (1280, 1280), (1000, 1008)]
)
def test_input_size_follows_from_the_tables(size, found):
    """1000 pixels and 1008 give maps of the same size."""
    meta = convert(with_tables(size)).meta
    assert meta['rel_pos_input_size'] == found
    assert meta['backbone']['rel_pos_input_size'] == found


@pytest.mark.parametrize('length', [16, 61])
def test_tables_that_fit_no_size_are_refused(length):
    state_dict = with_tables(256)
    state_dict['layer4.2.conv2.rel_width'] = table(length)
    with pytest.raises(ValueError, match='do not belong to one square input: layer'):
        convert(state_dict)


def test_wide_and_heads_are_read_off_the_shapes():
    for name, wide in zip(CLASSIFIERS + BACKBONES, [False, True] * 2, strict=True):
        meta = convert(thin_state_dict(name)).meta
        assert meta['wide'] == wide
        assert meta['backbone']['attn']['num_heads'] == 8


def start(config: dict, conversion: Conversion, path: str) -> nn.Module:
    """Initialises a backbone from the written file, as the tool's output says."""
    torch.save(dict(meta=conversion.meta, state_dict=conversion.state_dict), path)
    init_default_scope('mmdet')
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    model = MODELS.build({**config, 'init_cfg': init_cfg})
    model.init_weights()
    return model


def test_backbone_starts_from_the_file(tmp_path):
    conversion = convert(released_state_dict(BACKBONES[0]))
    config = conversion.meta['backbone']
    model = start(config, conversion, str(tmp_path / 'backbone.pth'))
    for key, value in model.state_dict().items():
        assert torch.equal(value, conversion.state_dict[f'backbone.{key}']), key


def test_detection_backbone_starts_from_a_classifier(tmp_path):
    """All but the relative positions and the norms that they pass through."""
    classifier = convert(released_state_dict(CLASSIFIERS[0]))
    config = dict(type='LESAResNet', depth=50, rel_pos_input_size=256)
    model = start(config, classifier, str(tmp_path / 'classifier.pth'))
    for key, value in model.state_dict().items():
        old = classifier.state_dict.get(f'backbone.{key}')
        new_in_detection = ('rel_h', 'rel_w', 'similarity_norm', 'out_norm')
        if any(name in key.split('.') for name in new_in_detection):
            if value.ndim:
                assert old is None or old.shape != value.shape, key
        else:
            assert torch.equal(value, old), key
