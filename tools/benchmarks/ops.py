"""The operators of attn_plugins.ops beside those of a compiled mmcv, on a CPU.

    PYTHONPATH=tools python tools/benchmarks/ops.py --threads 1 2

in an environment with a compiled mmcv. Prints a Markdown table: the largest errors over
the largest value of mmcv's result (0: the same boxes in the same order), and medians of
times that take turns.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from statistics import median
from types import ModuleType
from typing import NamedTuple

import torch
from mmcv import _ext
from torch import Tensor

from attn_plugins.ops import extension
from benchmarks.measure import time_in_turns
from benchmarks.tables import markdown

# By name, as mmcv.ops has functions of the same names.
bbox, deform_conv, modulated_deform_conv, nms, psa_mask, roi_align = (
    import_module(f'mmcv.ops.{name}')
    for name in 'bbox deform_conv modulated_deform_conv nms psa_mask roi_align'.split()  # noqa: SIM905
)

IMAGE = (800, 1344)


class Row(NamedTuple):
    """An operator with its inputs.

    Attributes:
        name: What it is, and its size.
        on_cuda: What does the work on CUDA.
        module: The module of mmcv that calls it.
        call: Makes its results.
        inputs: What to compute gradients of.
    """

    name: str
    on_cuda: str
    module: ModuleType
    call: Callable[[], list[Tensor]]
    inputs: tuple[Tensor, ...] = ()

    def step(self, ext: ModuleType, backward: bool) -> list[Tensor]:
        """Calls it with the operators of ``ext``: results, or gradients."""
        self.module.ext_module = ext
        if not backward:
            with torch.no_grad():
                return self.call()
        outs = self.call()
        seeds = [out.detach().sin() for out in outs]
        return list(torch.autograd.grad(outs, self.inputs, seeds))


def draw_boxes(count: int, kind: str) -> Tensor:
    """Boxes in an image: anywhere, or around objects, as a proposal network has."""
    size = torch.tensor(IMAGE[::-1])
    if kind == 'random':
        centres, sides = torch.rand(count, 2) * size, torch.rand(count, 2) * 150 + 5
    else:
        of = torch.randint(0, 40, (count,))
        centres = (torch.rand(40, 2) * size)[of] + 12 * torch.randn(count, 2)
        spread = (1 + 0.15 * torch.randn(count, 2)).clamp(min=0.3)
        sides = (torch.rand(40, 2) * 200 + 20)[of] * spread
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def suppressions() -> Iterator[Row]:
    def matched(dets: Tensor) -> list[Tensor]:
        groups = nms.nms_match(dets, 0.7)
        return [torch.cat(groups), torch.tensor([len(group) for group in groups])]

    for count in (1000, 5000):
        for kind in ('random', 'clustered'):
            boxes, scores = draw_boxes(count, kind), torch.randperm(count) / count
            yield Row(
                f'nms, {count} {kind} boxes',
                'torchvision',
                nms,
                lambda b=boxes, s=scores: list(nms.nms(b, s, 0.7)),
            )
    boxes, scores = draw_boxes(1000, 'clustered'), torch.randperm(1000) / 1000
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    others = draw_boxes(1000, 'random')
    for name, module, call in (
        ('soft_nms, 1000 clustered boxes', nms, lambda: nms.soft_nms(boxes, scores)),
        ('nms_match, 1000 clustered boxes', nms, lambda: matched(dets)),
        (
            'bbox_overlaps, 1000 x 1000',
            bbox,
            lambda: [bbox.bbox_overlaps(boxes, others)],
        ),
    ):
        yield Row(name, 'plain torch', module, lambda call=call: list(call()))


def regions() -> Iterator[Row]:
    height, width = IMAGE
    sides = torch.exp(torch.rand(1000, 2) * math.log(900 / 16) + math.log(16))
    centres = torch.rand(1000, 2) * torch.tensor([width, height])
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.log2(scale / 56 + 1e-6).floor().clamp(0, 3)
    rois = torch.cat([torch.zeros(1000, 1), boxes], dim=1)
    maps = tuple(
        torch.randn(1, 256, height // s, width // s, requires_grad=True)
        for s in (4, 8, 16, 32)
    )

    def call() -> list[Tensor]:
        return [
            roi_align.roi_align(x, rois[level == k], 7, 1 / (4 << k), 0)
            for k, x in enumerate(maps)
        ]

    name = 'RoIAlign, 1000 boxes, 4 levels, 256 x 7 x 7'
    yield Row(name, 'torchvision', roi_align, call, maps)


def maps() -> Iterator[Row]:
    x = torch.randn(1, 256, 50, 84, requires_grad=True)
    weight = (torch.randn(256, 256, 3, 3) / 48).requires_grad_()
    offset = (2 * torch.randn(1, 18, 50, 84)).requires_grad_()
    mask = torch.rand(1, 9, 50, 84, requires_grad=True)
    yield Row(
        'DCNv1, 256 x 50 x 84',
        'torchvision',
        deform_conv,
        lambda: [deform_conv.deform_conv2d(x, offset, weight, 1, 1)],
        (x, offset, weight),
    )
    yield Row(
        'DCNv2, 256 x 50 x 84',
        'torchvision',
        modulated_deform_conv,
        lambda: [
            modulated_deform_conv.modulated_deform_conv2d(
                x, offset, mask, weight, None, 1, 1
            )
        ],
        (x, offset, mask, weight),
    )
    masks = torch.randn(1, 59 * 59, 30, 30, requires_grad=True)
    yield Row(
        'psa_mask, 59 x 59 on 30 x 30',
        'plain torch',
        psa_mask,
        lambda: [psa_mask.psa_mask(masks, 0, (59, 59))],
        (masks,),
    )


def error(ours: list[Tensor], wanted: list[Tensor]) -> str:
    """Returns the largest error over the largest value, of the worst tensor."""
    if any(a.shape != b.shape for a, b in zip(ours, wanted, strict=True)):
        return 'other boxes'
    errors = (
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
        for a, b in zip(ours, wanted, strict=True)
    )
    return f'{max(errors):.0e}'.replace('0e+00', '0')


def times(row: Row, backward: bool, threads: int, seconds: float) -> str:
    torch.set_num_threads(threads)
    steps = [lambda ext=ext: row.step(ext, backward) for ext in (_ext, extension)]
    mmcv, ours = map(median, time_in_turns(steps, seconds))
    return f'{ours:.3g} / {mmcv:.3g} = {ours / mmcv:.2f}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, nargs='+', default=[1])
    parser.add_argument('--seconds', type=float, default=2, help='for each time')
    parser.add_argument('--match', default='', help='only operators named like this')
    args = parser.parse_args()
    if _ext.__file__.endswith('.py'):
        parser.error(f'{_ext.__file__} is no compiled mmcv')
    torch.manual_seed(0)
    table = []
    rows = (*suppressions(), *regions(), *maps())
    for row in (row for row in rows if args.match in row.name):
        for backward in (False, True) if row.inputs else (False,):
            errors = error(row.step(extension, backward), row.step(_ext, backward))
            name = f'{row.name}, forward + backward' if backward else row.name
            cells = ['', errors] if backward else [errors, '']
            table.append(
                [name, row.on_cuda, *cells]
                + [times(row, backward, n, args.seconds) for n in args.threads]
            )
            print(*table[-1], sep=', ', file=sys.stderr)
    header = ['operator', 'on CUDA', 'error', 'error of gradients']
    header += [f'ms, ours / mmcv, {n} thread{"s" * (n > 1)}' for n in args.threads]
    print(markdown(header, table))


if __name__ == '__main__':
    main()
