"""The operators equal their specification, written out here pixel by pixel."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from ops.cases import ROIS, boxes
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from attn_plugins.ops import backend, extension
from attn_plugins.ops.carafe import carafe
from attn_plugins.ops.deform_conv import deform_conv2d
from attn_plugins.ops.deform_roi_pool import deform_roi_pool
from attn_plugins.ops.focal_loss import (
    sigmoid_focal_loss,
    softmax_focal_loss,
    softmax_focal_loss_gradient,
)
from attn_plugins.ops.masked_conv import masked_columns, masked_map
from attn_plugins.ops.ms_deform_attn import ms_deform_attn
from attn_plugins.ops.nms import nms
from attn_plugins.ops.overlaps import bbox_overlaps
from attn_plugins.ops.psa_mask import psa_mask, psa_mask_gradient
from attn_plugins.ops.roi_align import roi_align, roi_align_gradient
from attn_plugins.ops.roi_pool import roi_pool, roi_pool_gradient
from attn_plugins.ops.soft_nms import nms_match, soft_nms


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def some_rois(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(ROIS, dtype=dtype)


# Suppression.


def iou(a: list[float], b: list[float], offset: int) -> float:
    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return (x2 - x1 + offset) * (y2 - y1 + offset)

    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    union = area(*a) + area(*b) - shared
    return shared / union if union else math.nan


def slow_nms(drawn: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))
    rows, kept = drawn.tolist(), []
    for i in order:
        if not any(iou(rows[i], rows[j], offset) > threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize(('ties', 'offset'), [(False, 0), (True, 0), (False, 1)])
@pytest.mark.parametrize('threshold', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('kind', ['random', 'clustered', 'whole', 'identical'])
def test_nms_keeps_what_the_loop_keeps(kind, ties, threshold, offset):
    drawn = boxes(torch.Generator().manual_seed(0), 300, kind)
    if kind == 'identical':
        drawn = drawn[:1].repeat(300, 1)
    drawn = drawn.double()  # the loop's numbers
    scores = torch.randint(5, (300,)).double() if ties else torch.rand(300).double()
    kept = nms(drawn, scores, threshold, offset)
    assert kept.tolist() == slow_nms(drawn, scores, threshold, offset)


def test_soft_nms_lowers_the_scores_of_what_overlaps():
    drawn = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 10, 10], [0, 0, 4, 3.0]])
    scores = torch.tensor([0.9, 0.8, 0.5, 0.6])
    expected = {
        'naive': [(0, 0.9), (2, 0.5)],
        # 0.8 * (1 - 1/2); 0.6 * (1 - 3/4) * (1 - 2/3) is below 0.1.
        'linear': [(0, 0.9), (2, 0.5), (1, 0.4)],
        'gaussian': [
            (0, 0.9),
            (2, 0.5),
            (1, 0.8 * math.exp(-(0.5**2) / 0.5)),
            (3, 0.6 * math.exp(-(0.75**2 + (2 / 3) ** 2) / 0.5)),
        ],
    }
    for method, wanted in expected.items():
        dets, kept = soft_nms(drawn, scores, 0.3, 0.5, 0.07, method)
        assert kept.tolist() == [i for i, _ in wanted]
        assert_close(dets[:, 4], torch.tensor([score for _, score in wanted]))
        assert torch.equal(dets[:, :4], drawn[kept])


def test_nms_match_groups_what_nms_drops():
    drawn = boxes(torch.Generator().manual_seed(0), 80, 'clustered')
    scores = torch.randint(5, (80,)).float()
    groups = nms_match(torch.cat([drawn, scores[:, None]], dim=1), 0.4)
    assert [group[0] for group in groups] == nms(drawn, scores, 0.4).tolist()
    assert sorted(i for group in groups for i in group) == list(range(80))
    for first, *others in groups:
        assert all(iou(*drawn[[first, i]].tolist(), 0) >= 0.4 for i in others)
        order = [(-scores[i].item(), i) for i in (first, *others)]
        assert order == sorted(order)


# Regions.


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Reads ``(C, H, W)``: up to a pixel outside as at the edge, then zero."""
    _, height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * image[:, top, left] + across * image[:, top, right]
    lower = (1 - across) * image[:, bottom, left] + across * image[:, bottom, right]
    return (1 - down) * upper + down * lower


def slow_roi_align(
    x: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
    offset: Tensor | None = None,
    gamma: float = 0,
) -> Tensor:
    out = x.new_zeros(len(rois), x.shape[1], *size)
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (scale * at - 0.5 * aligned for at in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bin_y, bin_x = height / size[0], width / size[1]
        down, across = (ratio or math.ceil(side) for side in (bin_y, bin_x))
        for row, column in product(range(size[0]), range(size[1])):
            top, left = y1, x1
            if offset is not None:
                left += gamma * width * offset[n, 0, row, column].item()
                top += gamma * height * offset[n, 1, row, column].item()
            for i, j in product(range(down), range(across)):
                y = top + (row + (i + 0.5) / down) * bin_y
                x_ = left + (column + (j + 0.5) / across) * bin_x
                value = bilinear(x[int(image)], y, x_)
                out[n, :, row, column] += value / (down * across)
    return out


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [0, 1, 3])
@pytest.mark.parametrize('scale', [1.0, 0.305])
def test_roi_align_equals_the_loop(aligned, ratio, scale):
    x, rois = double(2, 2, 9, 12).detach(), some_rois()
    expected = slow_roi_align(x, rois, (2, 3), scale, ratio, aligned)
    assert_close(roi_align(x, rois, (2, 3), scale, ratio, aligned), expected)


@pytest.mark.parametrize('ratio', [0, 2])
def test_deform_roi_pool_equals_the_loop(ratio):
    x, rois, offset = double(2, 2, 9, 12).detach(), some_rois(), double(10, 2, 2, 3)
    expected = slow_roi_align(x, rois, (2, 3), 0.6, ratio, True, offset.detach(), 0.2)
    assert_close(deform_roi_pool(x, rois, offset, (2, 3), 0.6, ratio, 0.2), expected)
    assert_close(
        deform_roi_pool(x, rois, None, (2, 3), 0.6, ratio),
        roi_align(x, rois, (2, 3), 0.6, ratio, True),
    )


@pytest.mark.parametrize('scale', [1.0, 0.305])
def test_roi_pool_equals_the_loop(scale):
    x = torch.randint(9, (2, 2, 9, 12)).double() - 9  # equal ones, none above 0
    rois = some_rois()
    out, argmax = roi_pool(x, rois, (2, 3), scale)
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        top, left = y1 * scale, x1 * scale
        bin_y, bin_x = ((y2 + 1) * scale - top) / 2, ((x2 + 1) * scale - left) / 3
        for row, column, channel in product(range(2), range(3), range(2)):
            ys = range(
                max(math.floor(row * bin_y + top), 0),
                min(math.ceil((row + 1) * bin_y + top), 9),
            )
            xs = range(
                max(math.floor(column * bin_x + left), 0),
                min(math.ceil((column + 1) * bin_x + left), 12),
            )
            values = x[int(image), channel]
            pixels = sorted((-values[y, c].item(), 12 * y + c) for y in ys for c in xs)
            value, pixel = pixels[0] if pixels else (0, -1)
            assert out[n, channel, row, column] == -value
            assert argmax[n, channel, row, column] == pixel


# Convolutions and maps.


def test_carafe_equals_the_loop():
    x, masks = double(1, 4, 3, 2).detach(), double(1, 2 * 9, 6, 4).detach()
    out = carafe(x, masks, 3, 2, 2)
    for channel, y, column in product(range(4), range(6), range(4)):
        value = 0
        for i, j in product(range(3), range(3)):
            row, col = y // 2 + i - 1, column // 2 + j - 1
            if 0 <= row < 3 and 0 <= col < 2:
                weight = masks[0, 9 * (channel // 2) + 3 * i + j, y, column]
                value += x[0, channel, row, col] * weight
        assert_close(out[0, channel, y, column], torch.as_tensor(value).double())


def test_masked_convolution_equals_the_convolution():
    x, weight = double(1, 3, 6, 7), double(4, 3, 3, 2)
    rows, columns = (torch.rand(6, 8) > 0.6).nonzero().T
    read = masked_columns(x, rows, columns, (3, 2), (1, 1))
    out = masked_map(weight.flatten(1) @ read, rows, columns, (6, 8))
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    assert_close(out[:, :, rows, columns], expected[:, :, rows, columns])
    assert out.count_nonzero() == 4 * len(rows)


def test_deform_conv_without_offsets_is_a_convolution():
    x, weight, bias = double(2, 4, 6, 5), double(6, 2, 3, 3), double(6)
    how = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    expected = torch.nn.functional.conv2d(x, weight, bias, **how)
    offset = torch.zeros(2, 18, *expected.shape[2:], dtype=torch.float64)
    assert_close(deform_conv2d(x, offset, weight, bias, **how), expected)


def test_deform_conv_derives_towards_the_next_pixel():
    """Where an offset of 0 leaves a tap on a pixel, whatever the size of the map."""
    for height, width in ((4, 4), (7, 9), (50, 84)):
        x, weight = torch.randn(1, 1, height, width), torch.ones(1, 1, 1, 1)
        offset = torch.zeros(1, 2, height, width, requires_grad=True)
        deform_conv2d(x, offset, weight).sum().backward()
        padded = torch.nn.functional.pad(x[0, 0], (0, 1, 0, 1))
        assert_close(offset.grad[0, 0], padded[1:, :-1] - x[0, 0])
        assert_close(offset.grad[0, 1], padded[:-1, 1:] - x[0, 0])


def test_ms_deform_attn_equals_the_loop():
    shapes, starts = [(3, 4), (2, 1)], [0, 12]
    value = double(1, 14, 2, 3).detach()
    places = 1.2 * torch.rand(1, 5, 2, 2, 3, 2).double() - 0.1
    weights = torch.rand(1, 5, 2, 2, 3).double()
    out = ms_deform_attn(
        value, torch.tensor(shapes), torch.tensor(starts), places, weights
    )
    expected = value.new_zeros(5, 2, 3)
    for query, head, level, point in product(range(5), range(2), range(2), range(3)):
        (height, width), start = shapes[level], starts[level]
        pixels = value[0, start : start + height * width, head]
        image = torch.zeros(3, height + 2, width + 2, dtype=torch.float64)
        image[:, 1:-1, 1:-1] = pixels.T.view(3, height, width)
        x, y = places[0, query, head, level, point].tolist()
        sample = bilinear(image, y * height + 0.5, x * width + 0.5)
        expected[query, head] += sample * weights[0, query, head, level, point]
    assert_close(out, expected.view(1, 5, 6))


def test_psa_masks_of_both_kinds_are_transposed():
    x = double(2, 15, 4, 5)
    collected, distributed = (psa_mask(x, kind, (3, 5)) for kind in (True, False))
    assert_close(collected.flatten(2).mT, distributed.flatten(2))
    # The pixel in row 1, column 2 looks at rows 0 to 2, columns 0 to 4.
    looks = collected[0, :, 1, 2].view(4, 5)
    assert_close(looks[:3], x[0, :, 1, 2].view(3, 5))
    assert not looks[3].any()


@pytest.mark.parametrize('collect', [True, False])
def test_gradient_of_psa_mask_is_the_one_of_autograd(collect):
    x = double(2, 15, 4, 3)
    out = psa_mask(x, collect, (3, 5))
    grad = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, x, grad)
    assert_close(psa_mask_gradient(grad, collect, (3, 5)), expected)


# Losses.


@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.5, 0.7), (0.0, 0.5)])
def test_sigmoid_focal_loss_equals_the_loop(gamma, alpha):
    x, target = 4 * double(7, 3), [0, 1, 2, 3, 0, 1, 3]  # 3 is background
    loss = sigmoid_focal_loss(x, torch.tensor(target), None, gamma, alpha)
    for row, column in product(range(7), range(3)):
        p, factor = x[row, column].sigmoid(), alpha
        if column != target[row]:
            p, factor = 1 - p, 1 - alpha
        assert_close(loss[row, column], -factor * (1 - p) ** gamma * p.log())


def test_softmax_focal_loss_has_the_gradient_of_the_logits():
    x, target = double(7, 4), torch.tensor([0, 1, 2, 3, -1, 0, -1])
    weight = torch.rand(4).double()
    p = x.softmax(1)
    loss = softmax_focal_loss(p, target, weight, 1.5, 0.3)
    q = p[range(4), range(4)]
    assert_close(loss[:4], -0.3 * weight * (1 - q) ** 1.5 * q.log())
    assert loss[4] == loss[6] == 0
    (expected,) = torch.autograd.grad(loss.sum(), x)
    grad = softmax_focal_loss_gradient(p.detach(), target, weight, 1.5, 0.3)[1]
    assert_close(grad, expected)


def test_focal_losses_are_finite_for_extreme_logits():
    x = torch.tensor([[200.0, -200], [-200, 200]], requires_grad=True)
    for target, gamma in product(
        (torch.tensor([0, 1]), torch.tensor([1, 0])), (0.5, 2)
    ):
        loss = sigmoid_focal_loss(x, target, None, gamma)
        (grad,) = torch.autograd.grad(loss.sum(), x)
        assert loss.isfinite().all()
        assert grad.isfinite().all()
        p = x.detach().softmax(1)
        assert softmax_focal_loss(p, target, None, gamma).isfinite().all()
        for grad in softmax_focal_loss_gradient(p, target, None, gamma):
            assert grad.isfinite().all()


def test_weights_of_classes():
    x, target = double(3, 2), torch.tensor([0, 1, 1])
    loss = sigmoid_focal_loss(x, target, torch.tensor([2.0, 3.0]).double())
    expected = sigmoid_focal_loss(x, target) * torch.tensor([[2.0], [3.0], [3.0]])
    assert_close(loss, expected)


# All of them.

DIFFERENTIABLE = {
    'bbox_overlaps': lambda: (
        bbox_overlaps,
        [boxes(torch.Generator().manual_seed(k), 3, 'random').double() for k in (0, 1)],
    ),
    'carafe': lambda: (
        lambda *inputs: carafe(*inputs, 3, 2, 2),
        [double(1, 4, 2, 3), double(1, 18, 4, 6)],
    ),
    'deform_conv2d': lambda: (
        partial(
            deform_conv2d,
            stride=(2, 1),
            padding=(1, 1),
            dilation=(1, 2),
            groups=2,
            deform_groups=2,
        ),
        [
            double(1, 4, 4, 5),
            double(1, 16, 3, 5),
            double(2, 2, 2, 2),
            double(2),
            double(1, 8, 3, 5),
        ],
    ),
    'deform_roi_pool': lambda: (
        lambda x, offset: deform_roi_pool(
            x, some_rois()[:3], offset, (2, 2), 0.6, 0, 0.2
        ),
        [double(2, 2, 6, 7), double(3, 2, 2, 2)],
    ),
    'masked_columns': lambda: (
        lambda x: masked_columns(
            x, torch.tensor([0, 3]), torch.tensor([2, 1]), (3, 3), (1, 1)
        ),
        [double(1, 2, 4, 3)],
    ),
    'masked_map': lambda: (
        lambda x: masked_map(x, torch.tensor([0, 3]), torch.tensor([2, 1]), (4, 3)),
        [double(2, 2)],
    ),
    'ms_deform_attn': lambda: (
        lambda value, *rest: ms_deform_attn(
            value, torch.tensor([[3, 4], [2, 1]]), torch.tensor([0, 12]), *rest
        ),
        [
            double(1, 14, 2, 2),
            torch.rand(1, 2, 2, 2, 3, 2).double(),
            double(1, 2, 2, 2, 3),
        ],
    ),
    'psa_mask': lambda: (
        lambda x: psa_mask(x, True, (3, 5)),
        [double(1, 15, 2, 3)],
    ),
    'roi_align': lambda: (
        lambda x: roi_align(x, some_rois(), (2, 2), 0.6, 0, True),
        [double(2, 1, 4, 5)],
    ),
    'roi_pool': lambda: (
        lambda x: roi_pool(x, some_rois(), (2, 2), 0.6)[0],
        [double(2, 1, 4, 5)],
    ),
    'sigmoid_focal_loss': lambda: (
        lambda x: sigmoid_focal_loss(x, torch.tensor([0, 2, 1]), None, 1.5, 0.3),
        [double(3, 2)],
    ),
    'softmax_focal_loss': lambda: (
        lambda p: softmax_focal_loss(p, torch.tensor([0, -1, 1]), None, 1.5),
        [0.1 + 0.8 * torch.rand(3, 2).double()],
    ),
}


@pytest.fixture(params=DIFFERENTIABLE)
def call(request):
    function, inputs = DIFFERENTIABLE[request.param]()
    return function, [x.detach() for x in inputs]


def test_gradients_are_the_derivatives(call):
    function, inputs = call
    assert gradcheck(function, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(call, dtype):
    function, inputs = call
    inputs = [x.to(dtype) for x in inputs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, 'forced', 'torch')
        out = function(*inputs)
        expected = function(*(x.float() for x in inputs))
    assert out.dtype == dtype
    assert torch.equal(out, expected.to(dtype))


def test_inputs_need_not_be_contiguous(call):
    function, inputs = call
    apart = []
    for x in inputs:
        wide = torch.zeros(*x.shape[::-1], 2, dtype=x.dtype)
        wide[..., 1] = x.permute(*range(x.dim())[::-1])
        apart.append(wide[..., 1].permute(*range(x.dim())[::-1]))
        assert not apart[-1].is_contiguous()
    assert_close(function(*apart), function(*inputs))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_suppression_in_half_precision(dtype):
    drawn = boxes(torch.Generator().manual_seed(0), 50, 'clustered').to(dtype)
    scores = torch.rand(50).to(dtype)
    kept = nms(drawn, scores, 0.5)
    assert kept.tolist() == nms(drawn.float(), scores.float(), 0.5).tolist()
    dets, kept = soft_nms(drawn, scores)
    expected, expected_kept = soft_nms(drawn.float(), scores.float())
    assert torch.equal(kept, expected_kept)
    assert torch.equal(dets, expected.to(dtype))
    both = torch.cat([drawn, scores[:, None]], dim=1)
    assert nms_match(both, 0.5) == nms_match(both.float(), 0.5)


def test_nothing_gives_nothing():
    none, x = torch.zeros(0, 4), torch.randn(1, 3, 4, 5, requires_grad=True)
    assert nms(none, none[:, 0], 0.5).shape == (0,)
    dets, kept = soft_nms(none, none[:, 0])
    assert (dets.shape, kept.shape, kept.dtype) == ((0, 5), (0,), torch.int64)
    assert nms_match(torch.zeros(0, 5), 0.5) == []
    assert bbox_overlaps(none, torch.ones(2, 4)).shape == (0, 2)
    rois = torch.zeros(0, 5)
    for out in (
        roi_align(x, rois, (2, 3)),
        roi_pool(x, rois, (2, 3))[0],
        deform_roi_pool(x, rois, None, (2, 3)),
        deform_roi_pool(x, rois, torch.zeros(0, 2, 2, 3), (2, 3)),
    ):
        assert out.shape == (0, 3, 2, 3)
    grad, argmax = torch.zeros(0, 3, 2, 3), torch.zeros(0, 3, 2, 3, dtype=torch.int64)
    how = (rois, x.shape, (2, 3), 1.0, 0, True)
    assert not roi_align_gradient(grad, *how).any()
    assert not roi_pool_gradient(grad, rois, argmax, x.shape).any()
    no_rows = torch.zeros(0, 3)
    target = torch.zeros(0, dtype=torch.int64)
    assert sigmoid_focal_loss(no_rows, target).shape == (0, 3)
    assert softmax_focal_loss(no_rows, target).shape == (0,)
    assert ms_deform_attn(
        torch.zeros(1, 6, 2, 3),
        torch.tensor([[2, 3]]),
        torch.tensor([0]),
        torch.zeros(1, 0, 2, 1, 4, 2),
        torch.zeros(1, 0, 2, 1, 4),
    ).shape == (1, 0, 6)


# The names of mmcv._ext that need more than numbers of a CPU.


def test_calls_without_a_kernel_for_cpus_in_mmcv():
    """What mmcv has for CUDA alone: its autograd functions call these so."""
    x, rois = torch.randn(2, 2, 9, 12), some_rois(torch.float32)
    how = dict(pooled_height=2, pooled_width=3, spatial_scale=0.6)
    out, grad_x = torch.zeros(10, 2, 2, 3), torch.zeros_like(x)
    grad, argmax = torch.randn_like(out), torch.zeros_like(out, dtype=torch.int32)
    extension.roi_pool_forward(x, rois, out, argmax, **how)
    extension.roi_pool_backward(grad, rois, argmax, grad_x, **how)
    check(lambda x: roi_pool(x, rois, (2, 3), 0.6)[0], [x], out, grad, [grad_x])

    how |= dict(sampling_ratio=0, gamma=0.2)
    for offset in (torch.randn(10, 2, 2, 3), torch.zeros(0)):
        grads = torch.zeros_like(x), torch.zeros_like(offset)
        extension.deform_roi_pool_forward(x, rois, offset, out, **how)
        extension.deform_roi_pool_backward(grad, x, rois, offset, *grads, **how)
        inputs = [x, offset] if len(offset) else [x]
        check(
            lambda x, offset=None: deform_roi_pool(
                x, rois, offset, (2, 3), 0.6, 0, 0.2
            ),
            inputs,
            out,
            grad,
            grads[: len(inputs)],
        )

    how = dict(kernel_size=3, group_size=2, scale_factor=2)
    masks = torch.randn(2, 18, 18, 24)
    out, spare = torch.zeros(2, 2, 18, 24), torch.zeros(2, 2, 18, 24)
    grad, grads = torch.randn_like(out), (torch.zeros_like(x), torch.zeros_like(masks))
    kept = torch.zeros_like(x)
    extension.carafe_forward(x, masks, kept, spare, spare, out, **how)
    extension.carafe_backward(
        grad, kept, masks, spare, spare, spare, spare, *grads, **how
    )
    check(lambda *inputs: carafe(*inputs, 3, 2, 2), [x, masks], out, grad, grads)
    grads = torch.zeros_like(x), torch.zeros_like(masks)
    extension.carafe_naive_forward(x, masks, out, **how)
    extension.carafe_naive_backward(grad, x, masks, *grads, **how)
    check(lambda *inputs: carafe(*inputs, 3, 2, 2), [x, masks], out, grad, grads)

    maps = torch.tensor([[2, 3], [1, 1]]), torch.tensor([0, 6])
    inputs = [torch.randn(1, 7, 2, 3), torch.rand(1, 4, 2, 2, 3, 2)]
    inputs.append(torch.rand(1, 4, 2, 2, 3))
    grads = [torch.zeros_like(x) for x in inputs]
    value, *rest = inputs
    out = extension.ms_deform_attn_forward(value, *maps, *rest, im2col_step=64)
    grad = torch.randn_like(out)
    extension.ms_deform_attn_backward(value, *maps, *rest, grad, *grads, im2col_step=64)
    check(
        lambda value, *rest: ms_deform_attn(value, *maps, *rest),
        inputs,
        out,
        grad,
        grads,
    )


def check(function, inputs, out, grad, grads) -> None:
    """Compares what a call filled in with the function and its autograd."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    expected = function(*inputs)
    assert_close(out, expected)
    assert_close(tuple(grads), torch.autograd.grad(expected, inputs, grad))


@pytest.mark.parametrize('weight', [torch.zeros(0), torch.tensor([2.0, 3.0])])
def test_calls_of_losses(weight):
    x, target = torch.randn(4, 2, requires_grad=True), torch.tensor([0, 1, 1, 0])
    given = weight if len(weight) else None
    out, grad = torch.zeros(4, 2), torch.zeros(4, 2)
    how = dict(gamma=1.5, alpha=0.3)
    extension.sigmoid_focal_loss_forward(x.detach(), target, weight, out, **how)
    extension.sigmoid_focal_loss_backward(x.detach(), target, weight, grad, **how)
    loss = sigmoid_focal_loss(x, target, given, **how)
    assert_close(out, loss)
    assert_close(grad, torch.autograd.grad(loss.sum(), x)[0])
    p, out, buffer = x.softmax(1), torch.zeros(4), torch.zeros(4)
    extension.softmax_focal_loss_forward(p.detach(), target, weight, out, **how)
    extension.softmax_focal_loss_backward(
        p.detach(), target, weight, buffer, grad, **how
    )
    loss = softmax_focal_loss(p, target, given, **how)
    assert_close(out, loss)
    assert_close(grad, torch.autograd.grad(loss.sum(), x)[0])


def test_calls_of_the_masked_convolution():
    x, weight = torch.randn(1, 3, 6, 7), torch.randn(4, 3, 3, 3)
    rows, columns = (torch.rand(6, 7) > 0.5).nonzero().T
    read, out = torch.zeros(27, len(rows)), torch.zeros(1, 4, 6, 7)
    extension.masked_im2col_forward(
        x, rows, columns, read, kernel_h=3, kernel_w=3, pad_h=1, pad_w=1
    )
    extension.masked_col2im_forward(
        weight.flatten(1) @ read, rows, columns, out, height=6, width=7, channels=4
    )
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    assert_close(
        out[:, :, rows, columns], expected[:, :, rows, columns], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize('name', ['furthest_point_sampling_forward', 'sync_bn_forward'])
def test_other_operators_say_what_to_install(name):
    operator = getattr(extension, name)  # mmcv asks for all of them
    with pytest.raises(NotImplementedError, match=f'operator {name}: ') as error:
        operator(torch.zeros(1), how=1)
    assert '\n' not in str(error.value)


def test_largest_samples_of_roi_align_are_not_provided():
    how = dict(aligned_height=1, aligned_width=1, spatial_scale=1.0, sampling_ratio=0)
    tensors = [torch.zeros(0)] * 5
    with pytest.raises(NotImplementedError, match='max'):
        extension.roi_align_forward(*tensors, **how, pool_mode=0, aligned=True)


def test_autocast_leaves_operators_alone():
    x, offset, weight = (
        torch.rand(1, 4, 6, 7),
        torch.rand(1, 18, 4, 5),
        torch.rand(4, 4, 3, 3),
    )
    plain = deform_conv2d(x, offset, weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(deform_conv2d(x, offset, weight), plain)


def test_no_boxes_and_no_images_have_gradients():
    x, rois = torch.rand(1, 2, 5, 6), torch.zeros(0, 5)
    how = dict(pooled_height=2, pooled_width=2, spatial_scale=1.0)
    how |= dict(sampling_ratio=0, gamma=0.1)
    grad_x, offset = torch.ones_like(x), torch.zeros(0, 2, 2, 2)
    extension.deform_roi_pool_backward(
        torch.zeros(0, 2, 2, 2), x, rois, offset, grad_x, torch.zeros(0), **how
    )
    assert not grad_x.any()
    none = deform_conv2d(x[:0], torch.zeros(0, 18, 3, 4), torch.rand(3, 2, 3, 3))
    assert none.shape == (0, 3, 3, 4)


# torchvision's kernels, which CUDA takes.


@pytest.mark.skipif(
    not backend.has_torchvision(), reason="torchvision's operators do not load"
)
def test_torchvision_yields_the_same(monkeypatch):
    x, rois = double(2, 4, 9, 12), some_rois()[:-1]
    offset, mask = double(2, 36, 9, 12), double(2, 18, 9, 12)
    weight, bias = double(6, 2, 3, 3), double(6)
    drawn = boxes(torch.Generator().manual_seed(0), 200, 'clustered')
    scores = torch.rand(200)
    how = dict(padding=(1, 1), groups=2, deform_groups=2)
    results = []
    for forced in ('torch', 'torchvision'):
        monkeypatch.setattr(backend, 'forced', forced)
        outs = [
            deform_conv2d(x, offset, weight, bias, mask, **how),
            deform_conv2d(x, offset, weight, **how),
            *(
                roi_align(x, rois, (2, 3), 0.6, ratio, aligned)
                for ratio, aligned in product((0, 2), (False, True))
            ),
        ]
        seeds = [torch.linspace(-1, 1, o.numel()).double().view(o.shape) for o in outs]
        inputs = [x, offset, mask, weight, bias]
        grads = torch.autograd.grad(outs, inputs, seeds)
        grad_x = roi_align_gradient(seeds[-1], rois, x.shape, (2, 3), 0.6, 2, True)
        kept = nms(drawn, scores, 0.4), nms(drawn, scores, 0.4, 1)
        results.append([*outs, *grads, grad_x, *kept])
    assert_close(*results)
