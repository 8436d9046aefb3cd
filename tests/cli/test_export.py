"""export as a user calls it, in-process: the files equal the models, at any size."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

from attn_plugins.cli import export as tool
from attn_plugins.mm.apis import export as exporting
from attn_plugins.mm.apis.launch import LaunchError, one_line_errors, read_config
from attn_plugins.mm.apis.prediction import Predictor

REPO = Path(__file__).resolve().parents[2]
DEMO = str(REPO / 'configs/eanet_r18_demo.py')
# Of the largest number of an output, or of 1.
ONNX_TOLERANCE = 1e-4
SIZES = [(1, 64, 96), (2, 97, 65), (3, 129, 160)]
NO_MAP_OF_ONE_PIXEL = [(1, 65, 96), *SIZES[1:]]  # with FPN's, of stride 64

SEGMENTOR = f"""
_base_ = {DEMO!r}
model = dict(
    backbone=dict(stem_channels=8, base_channels=8),
    decode_head=dict(in_channels=64, attn_channels=32, channels=16),
    auxiliary_head=dict(in_channels=32, channels=16))
"""
DETECTOR = """
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(type='LESAResNet', depth=18, base_channels=8, init_cfg=None,
        stage_with_attn=(False, False, False, True), attn=dict(num_heads=4),
        rel_pos_input_size=96),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=3),
        mask_head=dict(
            in_channels=16, conv_out_channels=8, num_convs=1, num_classes=3)))
"""
CLASSIFIER = """
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(type='GSAResNet', stem_channels=8, base_channels=8,
        stage_with_attn=(False, False, False, True), attn=dict(num_heads=4),
        rel_pos_input_size=96),
    head=dict(num_classes=3, in_channels=64, topk=(1,)))
"""


class Model:
    """A small model with weights that are not those of its initialisation."""

    def __init__(self, folder: Path, text: str) -> None:
        torch.manual_seed(0)
        self.config = str(folder / 'config.py')
        Path(self.config).write_text(text)
        self.predictor = Predictor(read_config(self.config), device='cpu')
        for name, tensor in self.predictor.model.state_dict().items():
            if name.endswith('running_mean'):
                tensor.normal_(std=0.1)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
        self.checkpoint = str(folder / 'weights.pth')
        weights = self.predictor.model.state_dict()
        torch.save(dict(state_dict=weights, meta={}), self.checkpoint)

    @torch.no_grad()
    def outputs(self, image: Tensor) -> list[Tensor]:
        model = self.predictor.model
        maps = model.extract_feat(image)
        if self.predictor.task == 'detection':
            return list(maps)
        if self.predictor.task == 'classification':
            return [model.head(maps)]
        logits = model.decode_head(maps)
        return [F.interpolate(logits, image.shape[2:], mode='bilinear')]


# One of each format in the default selection.
NAMES = [
    'eanet',
    pytest.param('lesa', marks=pytest.mark.slow),
    pytest.param('gsa', marks=pytest.mark.slow),
]


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    texts = dict(eanet=SEGMENTOR, lesa=DETECTOR, gsa=CLASSIFIER)
    return {
        name: Model(tmp_path_factory.mktemp(name), text) for name, text in texts.items()
    }


def check_equal(model: Model, run, tolerance: float, sizes=SIZES) -> None:
    for batch, height, width in sizes:
        image = torch.randn(batch, 3, height, width)
        expected = model.outputs(image)
        for out, want in zip(run(image), expected, strict=True):
            scale = max(1.0, want.abs().max().item())
            assert_close(torch.as_tensor(out), want, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize('name', NAMES)
def test_onnx_equals_the_model_at_any_size(models, name, tmp_path, capsys):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    model, path = models[name], str(tmp_path / 'model.onnx')
    tool.main([model.config, model.checkpoint, '--out', path, '--size', '64', '96'])
    said = capsys.readouterr().out
    assert said.count('largest difference') == 2
    assert ('a detector: its feature maps' in said) == (name == 'lesa')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()
    assert given.name == 'image'
    assert given.shape == ['batch', 3, 'height', 'width']
    expected = [f'features_{i}' for i in range(5)] if name == 'lesa' else ['logits']
    assert [output.name for output in session.get_outputs()] == expected
    check_equal(
        model, lambda image: session.run(None, {'image': image.numpy()}), ONNX_TOLERANCE
    )
    facts = session.get_modelmeta().custom_metadata_map
    assert facts['channels'] == 'RGB'
    np.testing.assert_allclose(json.loads(facts['mean']), (123.675, 116.28, 103.53))
    assert len(json.loads(facts['std'])) == 3
    assert facts['pad_size_divisor'] == ('32' if name == 'lesa' else '1')
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']


@pytest.mark.parametrize('name', NAMES)
def test_torchscript_equals_the_model_at_any_size(models, name, tmp_path):
    model, path = models[name], str(tmp_path / 'model.pt')
    tool.main(
        [model.config, model.checkpoint, '--format', 'torchscript', '--out', path]
    )
    facts = {exporting.FACTS: ''}
    script = torch.jit.load(path, _extra_files=facts)
    assert json.loads(facts[exporting.FACTS])['config'] == 'config.py'
    check_equal(model, lambda image: exporting.as_list(script(image)), 1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_exported_program_equals_the_model_at_any_size(models, name, tmp_path):
    model, path = models[name], str(tmp_path / 'model.pt2')
    tool.main([model.config, model.checkpoint, '--format', 'exported', '--out', path])
    module = torch.export.load(path).module()
    check_equal(
        model,
        lambda image: exporting.as_list(module(image)),
        1e-5,
        NO_MAP_OF_ONE_PIXEL,
    )


def test_a_part_and_a_fixed_size(models, tmp_path, capsys):
    model, path = models['lesa'], str(tmp_path / 'model.pt')
    options = ['--part', 'backbone', '--static', '--size', '64', '80']
    tool.main([model.config, '--format', 'torchscript', '--out', path, *options])
    said = capsys.readouterr().out
    assert 'Untrained weights' in said
    assert 'features_0, features_1, features_2, features_3\n' in said
    assert 'for 1 x 64 x 80' in said


def test_a_file_that_differs_is_not_passed_over(models, tmp_path, monkeypatch):
    model, path = models['eanet'], str(tmp_path / 'model.pt')
    monkeypatch.setattr(tool, 'largest_difference', lambda *_: 2e-4)
    with pytest.raises(LaunchError, match=r'differs from the model by 2\.0e-04'):
        tool.main([model.config, '--format', 'torchscript', '--out', path])


def test_deformable_convolutions_are_refused_before_anything_is_built(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tool, 'Predictor', None)
    config = str(REPO / 'configs/mask-rcnn_lesa-r50-dcn_coco_20e.py')
    with pytest.raises(LaunchError, match=r'^model\.backbone\.dcn is a deformable'):
        tool.main([config, '--out', str(tmp_path / 'model.onnx')])


@pytest.mark.parametrize('absent', ['onnx', 'onnxscript'])
def test_without_onnx_the_extra_is_named(absent, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr(
        exporting, 'missing_modules', lambda name: (name,) if name == absent else ()
    )
    arguments = ['attn-plugins export', DEMO, '--out', str(tmp_path / 'model.onnx')]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        tool.main(arguments[1:])
    assert ended.value.code == (
        f'attn-plugins export: error: --format onnx needs {absent}: '
        "pip install 'attn_plugins[export]'"
    )


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['nope.py', '--out', 'DIR/m.onnx'], 'there is no config file nope.py'),
        ([DEMO, 'nope.pth', '--out', 'DIR/m.onnx'], 'there is no checkpoint nope.pth'),
        ([DEMO, '--out', 'DIR/m.pt'], r'must end in \.onnx with --format onnx'),
        ([DEMO, '--out', 'DIR/m.onnx', '--size', '8', '96'], 'at least 64 64'),
        ([DEMO, '--out', f'{DEMO}/m.onnx'], 'cannot write to the folder'),
    ],
)
def test_bad_input(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'Predictor', None)  # found before any work
    arguments = [word.replace('DIR', str(tmp_path)) for word in arguments]
    with pytest.raises(LaunchError, match=expected):
        tool.main(arguments)


def test_a_whole_detector_is_refused(models, tmp_path):
    path = str(tmp_path / 'model.onnx')
    with pytest.raises(LaunchError, match='with --part features'):
        tool.main([models['lesa'].config, '--out', path, '--part', 'model'])
