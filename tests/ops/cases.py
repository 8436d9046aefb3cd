"""Calls of ``mmcv._ext`` as mmcv makes them: small inputs, and all that they yield.

Each case is made from a seed, and runs on any module with the names of ``mmcv._ext``.
They are the operators that a compiled mmcv has for a CPU.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Case(NamedTuple):
    """A call.

    Attributes:
        draw: Makes its inputs.
        run: Makes its outputs from the module and the inputs.
    """

    draw: Callable[[torch.Generator], Tensors]
    run: Callable[[ModuleType, Tensors], Tensors]


def inputs_of(case: Case, seed: int) -> Tensors:
    """Draws inputs: multiples of 1/64, which take little room in a file."""
    inputs = case.draw(torch.Generator().manual_seed(seed))
    return {name: (64 * x).round() / 64 for name, x in inputs.items()}


def boxes(generator: torch.Generator, count: int, kind: str) -> Tensor:
    """Draws boxes that lie anywhere, around few places, or on whole pixels."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    if kind == 'clustered':
        places = 30 * uniform(4, 2)[torch.randint(4, (count,), generator=generator)]
        centres, sides = places + 3 * uniform(count, 2), 10 + 4 * uniform(count, 2)
    else:
        centres, sides = 40 * uniform(count, 2), 1 + 20 * uniform(count, 2)
    result = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return (result / 4).round() * 4 if kind == 'whole' else result


def _scored(
    generator: torch.Generator, count: int, kind: str, ties: bool = False
) -> Tensors:
    # Which one of equal scores sorting puts first is not the same everywhere.
    order = torch.randperm(count, generator=generator)
    return {
        'boxes': boxes(generator, count, kind),
        'scores': ((order % 7 if ties else order) + 1) / 64,
    }


def _nms(ext: ModuleType, x: Tensors, **how) -> Tensors:
    return {'kept': ext.nms(x['boxes'], x['scores'], **how)}


def _softnms(ext: ModuleType, x: Tensors, **how) -> Tensors:
    dets = x['boxes'].new_zeros(len(x['boxes']), 5)
    kept = ext.softnms(x['boxes'], x['scores'], dets, **how)
    return {'kept': kept, 'dets': dets[: len(kept)]}


def _nms_match(ext: ModuleType, x: Tensors, iou_threshold: float) -> Tensors:
    dets = torch.cat([x['boxes'], x['scores'][:, None]], dim=1)
    groups = ext.nms_match(dets, iou_threshold=iou_threshold)
    return {
        'members': torch.tensor([i for group in groups for i in group]),
        'sizes': torch.tensor([len(group) for group in groups]),
    }


def _draw_pairs(generator: torch.Generator, aligned: bool) -> Tensors:
    count = 9 if aligned else 7
    return {
        'a': boxes(generator, 9, 'clustered'),
        'b': boxes(generator, count, 'whole'),
    }


def _bbox_overlaps(ext: ModuleType, x: Tensors, **how) -> Tensors:
    a, b = x['a'], x['b']
    ious = a.new_zeros(len(a)) if how['aligned'] else a.new_zeros(len(a), len(b))
    ext.bbox_overlaps(a, b, ious, **how)
    return {'ious': ious}


# Inside, over the edge, outside, nothing, tiny (two of them at the corner), huge.
ROIS = [
    [0, 2, 3, 9, 8],
    [1, 0, 0, 11.5, 9.2],
    [0, -3, -2.5, 4, 5],
    [0, -20, -20, -5, -5],
    [1, 30, 31, 40, 45],
    [1, 5, 5, 5, 5],
    [0, 5, 5, 5.01, 5.3],
    [1, 10.9, 8.7, 11.1, 8.9],
    [1, -1, -1, -0.6, -0.4],
    [0, -30, -26, 37, 41],
]


def _draw_map(generator: torch.Generator) -> Tensors:
    rois = torch.tensor(ROIS)
    rois[0, 1:] += torch.rand(4, generator=generator)
    return {
        'x': torch.randn(2, 2, 9, 12, generator=generator),
        'rois': rois,
        'grad': torch.randn(len(rois), 2, 3, 2, generator=generator),
    }


def _roi_align(ext: ModuleType, x: Tensors, **how) -> Tensors:
    how = dict(
        aligned_height=3,
        aligned_width=2,
        spatial_scale=0.75,
        pool_mode=1,
        **how,
    )
    out, grad, none = torch.zeros_like(x['grad']), torch.zeros_like(x['x']), x['x'][:0]
    ext.roi_align_forward(x['x'], x['rois'], out, none, none, **how)
    ext.roi_align_backward(x['grad'], x['rois'], none, none, grad, **how)
    return {'out': out, 'grad_x': grad}


class Convolution(NamedTuple):
    """How a deformable convolution is called: pairs are rows, then columns."""

    size: tuple[int, int] = (5, 4)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deform_groups: int = 1
    whole: bool = False

    def output_size(self) -> tuple[int, int]:
        return tuple(
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, padding, dilation in zip(*self[:5], strict=True)
        )


CONVOLUTIONS = {
    'plain': Convolution(),
    'zero_offsets': Convolution(whole=True),
    'groups': Convolution(groups=2, deform_groups=2),
    'deform_groups': Convolution((6, 5), stride=(2, 2), deform_groups=2),
    'dilation': Convolution((7, 5), (3, 3), (2, 1), (2, 0), (2, 1), groups=2),
    'point': Convolution((4, 5), (1, 1), padding=(0, 0)),
    'row': Convolution((1, 6)),
    'pixel': Convolution((1, 1), whole=True),
}
# mmcv refuses maps smaller than the kernel in DCNv1.
SMALL = ('row', 'pixel')


def _draw_convolution(
    generator: torch.Generator, conv: Convolution, surplus: int = 0
) -> Tensors:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    taps = conv.deform_groups * conv.kernel[0] * conv.kernel[1]
    size = conv.output_size()
    larger = [length + surplus for length in size]
    offset = 2 * normal(2, 2 * taps, *larger)
    if conv.whole:  # the first output channels: all 0
        offset = offset.round()
        offset[0] = 0
    return {
        'x': normal(2, 4, *conv.size),
        'offset': offset,
        'mask': normal(2, taps, *larger).sigmoid(),
        'weight': normal(4, 4 // conv.groups, *conv.kernel),
        'bias': normal(4),
        'grad': normal(2, 4, *size),
    }


def _deform_conv(ext: ModuleType, x: Tensors, conv: Convolution) -> Tensors:
    how = dict(
        kH=conv.kernel[0],
        kW=conv.kernel[1],
        dH=conv.stride[0],
        dW=conv.stride[1],
        padH=conv.padding[0],
        padW=conv.padding[1],
        dilationH=conv.dilation[0],
        dilationW=conv.dilation[1],
        group=conv.groups,
        deformable_group=conv.deform_groups,
        im2col_step=2,
    )
    buffers = [torch.zeros(0), torch.zeros(0)]
    out = torch.zeros_like(x['grad'])
    grads = {f'grad_{name}': torch.zeros_like(x[name]) for name in ('x', 'offset')}
    grad_weight = torch.zeros_like(x['weight'])
    ext.deform_conv_forward(x['x'], x['weight'], x['offset'], out, *buffers, **how)
    ext.deform_conv_backward_input(
        x['x'],
        x['offset'],
        x['grad'],
        *grads.values(),
        x['weight'],
        buffers[0],
        **how,
    )
    ext.deform_conv_backward_parameters(
        x['x'], x['offset'], x['grad'], grad_weight, *buffers, scale=1.0, **how
    )
    return {'out': out, **grads, 'grad_weight': grad_weight}


def _modulated_deform_conv(
    ext: ModuleType, x: Tensors, conv: Convolution, with_bias: bool
) -> Tensors:
    how = dict(
        kernel_h=conv.kernel[0],
        kernel_w=conv.kernel[1],
        stride_h=conv.stride[0],
        stride_w=conv.stride[1],
        pad_h=conv.padding[0],
        pad_w=conv.padding[1],
        dilation_h=conv.dilation[0],
        dilation_w=conv.dilation[1],
        group=conv.groups,
        deformable_group=conv.deform_groups,
        with_bias=with_bias,
    )
    buffers = [torch.zeros(0), torch.zeros(0)]
    bias = x['bias'] if with_bias else torch.zeros(0)
    out = torch.zeros_like(x['grad'])
    names = ('x', 'weight', 'bias', 'offset', 'mask')
    grads = {
        f'grad_{n}': torch.zeros_like(bias if n == 'bias' else x[n]) for n in names
    }
    ext.modulated_deform_conv_forward(
        x['x'],
        x['weight'],
        bias,
        buffers[0],
        x['offset'],
        x['mask'],
        out,
        buffers[1],
        **how,
    )
    ext.modulated_deform_conv_backward(
        x['x'],
        x['weight'],
        bias,
        buffers[0],
        x['offset'],
        x['mask'],
        buffers[1],
        *grads.values(),
        x['grad'],
        **how,
    )
    return {'out': out, **grads}


def _draw_masks(
    generator: torch.Generator, size: tuple[int, int], mask: tuple[int, int]
) -> Tensors:
    return {
        'x': torch.randn(2, mask[0] * mask[1], *size, generator=generator),
        'grad': torch.randn(2, size[0] * size[1], *size, generator=generator),
    }


def _psamask(
    ext: ModuleType, x: Tensors, psa_type: int, mask: tuple[int, int]
) -> Tensors:
    batch, _, height, width = x['x'].shape
    how = dict(
        psa_type=psa_type,
        num_=batch,
        h_feature=height,
        w_feature=width,
        h_mask=mask[0],
        w_mask=mask[1],
        half_h_mask=(mask[0] - 1) // 2,
        half_w_mask=(mask[1] - 1) // 2,
    )
    out, grad = torch.zeros_like(x['grad']), torch.zeros_like(x['x'])
    ext.psamask_forward(x['x'], out, **how)
    ext.psamask_backward(x['grad'], grad, **how)
    return {'out': out, 'grad_x': grad}


CASES: dict[str, Case] = {}

for kind in ('random', 'clustered', 'whole'):
    draw = partial(_scored, count=60, kind=kind)
    for threshold in (0.0, 0.3, 0.5, 1.0):
        offset = int(threshold == 0.3)
        CASES[f'nms-{kind}-{threshold}'] = Case(
            draw, partial(_nms, iou_threshold=threshold, offset=offset)
        )
        CASES[f'nms_match-{kind}-{threshold}'] = Case(
            draw, partial(_nms_match, iou_threshold=threshold)
        )
    for method, name in enumerate(('naive', 'linear', 'gaussian')):
        how = dict(
            iou_threshold=0.3, sigma=0.5, min_score=0.02, offset=int(kind == 'random')
        )
        CASES[f'softnms-{kind}-{name}'] = Case(
            partial(draw, ties=True), partial(_softnms, method=method, **how)
        )
for mode, name in enumerate(('iou', 'iof')):
    for aligned in (False, True):
        CASES[f'bbox_overlaps-{name}-{"aligned" if aligned else "all"}'] = Case(
            partial(_draw_pairs, aligned=aligned),
            partial(_bbox_overlaps, mode=mode, aligned=aligned, offset=mode),
        )
for aligned in (False, True):
    for ratio in (0, 2):
        CASES[f'roi_align-{"aligned" if aligned else "legacy"}-{ratio}'] = Case(
            _draw_map, partial(_roi_align, aligned=aligned, sampling_ratio=ratio)
        )
for name, conv in CONVOLUTIONS.items():
    draw = partial(_draw_convolution, conv=conv)
    if name not in SMALL:
        CASES[f'deform_conv-{name}'] = Case(draw, partial(_deform_conv, conv=conv))
    CASES[f'modulated_deform_conv-{name}'] = Case(
        draw, partial(_modulated_deform_conv, conv=conv, with_bias=name != 'point')
    )
# As mmdet's DyHead calls it, and what mmcv then reads.
conv = Convolution((4, 5))
CASES['modulated_deform_conv-larger offsets'] = Case(
    partial(_draw_convolution, conv=conv, surplus=3),
    partial(_modulated_deform_conv, conv=conv, with_bias=False),
)
for psa_type, name in enumerate(('collect', 'distribute')):
    for mask in ((3, 5), (4, 7), (9, 11)):
        CASES[f'psamask-{name}-{mask[0]}x{mask[1]}'] = Case(
            partial(_draw_masks, size=(4, 3), mask=mask),
            partial(_psamask, psa_type=psa_type, mask=mask),
        )
