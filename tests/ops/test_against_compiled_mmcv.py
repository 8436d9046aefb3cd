"""The operators beside those of a compiled mmcv, and beside what it has in Python."""

from importlib.machinery import EXTENSION_SUFFIXES

import pytest
import torch
from ops.cases import CASES, boxes, inputs_of
from torch.testing import assert_close

from attn_plugins.ops import extension
from attn_plugins.ops.ms_deform_attn import ms_deform_attn

try:
    from mmcv import _ext
except ImportError:
    pytest.skip('there is no mmcv with operators', allow_module_level=True)
if not getattr(_ext, '__file__', '').endswith(tuple(EXTENSION_SUFFIXES)):
    pytest.skip('mmcv is not a compiled one', allow_module_level=True)


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('name', CASES)
def test_same_values_and_gradients(name, seed):
    case = CASES[name]
    inputs = inputs_of(case, seed)
    outputs = case.run(extension, {key: x.clone() for key, x in inputs.items()})
    expected = case.run(_ext, inputs)
    for key, out in outputs.items():
        assert_close(out, expected[key], rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize('kind', ['random', 'clustered', 'whole'])
@pytest.mark.parametrize('count', [0, 1, 900])
def test_nms_keeps_the_same_of_many(kind, count):
    generator = torch.Generator().manual_seed(4)
    drawn = 10 * boxes(generator, count, kind)
    scores = torch.rand(count, generator=generator)
    for threshold in (0.05, 0.5, 0.7):
        how = dict(iou_threshold=threshold, offset=0)
        kept = extension.nms(drawn, scores, **how)
        assert kept.tolist() == _ext.nms(drawn, scores, **how).tolist()


def test_roi_align_at_other_scales():
    x, grad = torch.randn(1, 3, 25, 42), torch.randn(40, 3, 7, 7)
    rois = 20 * boxes(torch.Generator().manual_seed(5), 40, 'random')
    rois = torch.cat([torch.zeros(40, 1), rois], dim=1)
    results = []
    for ext in (extension, _ext):
        out, grad_x, none = torch.zeros_like(grad), torch.zeros_like(x), x[:0]
        how = dict(
            aligned_height=7,
            aligned_width=7,
            spatial_scale=1 / 32,
            sampling_ratio=0,
            pool_mode=1,
            aligned=True,
        )
        ext.roi_align_forward(x, rois, out, none, none, **how)
        ext.roi_align_backward(grad, rois, none, none, grad_x, **how)
        results.append((out, grad_x))
    assert_close(*results, rtol=1e-4, atol=1e-5)


def test_deformable_attention_is_mmcvs_in_torch():
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[6, 4], [3, 2], [1, 1]])
    starts = torch.tensor([0, 24, 30])
    inputs = [
        torch.randn(2, 31, 2, 3, dtype=torch.float64, requires_grad=True),
        (1.4 * torch.rand(2, 5, 2, 3, 4, 2, dtype=torch.float64) - 0.2),
        torch.rand(2, 5, 2, 3, 4, dtype=torch.float64, requires_grad=True),
    ]
    inputs[1].requires_grad_()
    out = ms_deform_attn(inputs[0], shapes, starts, *inputs[1:])
    value, *rest = inputs
    expected = multi_scale_deformable_attn_pytorch(value, shapes, *rest)
    assert_close(out, expected)
    grad = torch.randn_like(out)
    assert_close(
        torch.autograd.grad(out, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
    )
