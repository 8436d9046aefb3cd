"""Time and memory of LESA's context term beside the released formulation.

The released formulation holds the similarities of all pairs of pixels. It is written
out here, and compared first with the loops that the paper prints; then this package's
forms are compared with it, in float64: values, gradients, running statistics. If any
differ, nothing is measured. Batch norms are in training mode in a training step, which
computes the gradients of all parameters and of the input.

With --models, training steps of LESA-ResNet-50 beside ResNet-50 and beside the same
backbone with the released formulation.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attn_plugins.functional import reference
from attn_plugins.modules import LESA2d
from benchmarks.measure import Candidate, measure, n_by_n
from benchmarks.options import add_common_options, parse_size, parse_sizes
from benchmarks.parity import check_same, draw_norms
from benchmarks.report import (
    DOES_NOT_FIT,
    PEAK_PANELS,
    Row,
    environment,
    plot,
    rows_of,
    summaries,
    write_csv,
)
from benchmarks.tables import markdown

NUM_HEADS = 8
MATRICES = 6 * NUM_HEADS, 8 * NUM_HEADS  # of the released form: see there
SIZES = ('32x32', '64x64', '80x80', '48x96', '128x128')
IMPLS = ('blocks', 'sdpa')


class ReleasedContext(nn.Module):
    """The context term with N x N similarities, as the released detector computes it.

    In inference a head has 6 matrices in memory: the two terms, both of them together,
    and these normalised. In training it has 8, in the norm's backward: its input, the
    gradient of its output, that of its input and a copy that torch makes on the way.

    Args:
        channels: Of the map, and of the output.
        size: Height and width of the map: the only one that it takes.
        num_heads: Heads.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], num_heads: int = NUM_HEADS
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.width = channels // 2 // num_heads
        self.qkv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.qkv_norm = nn.BatchNorm2d(2 * channels)
        self.similarity_norm = nn.BatchNorm2d(2 * num_heads)
        self.out_norm = nn.BatchNorm2d(channels)
        self.rel_h, self.rel_w = (
            nn.Parameter(torch.randn(2 * length - 1, self.width) * self.width**-0.5)
            for length in size
        )
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns q, k, v, ``(B, h, D or V, H, W)`` each."""
        qkv = self.qkv_norm(self.qkv(x)).unflatten(1, (self.num_heads, -1))
        return qkv.split([self.width, self.width, 2 * self.width], dim=2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        content = torch.einsum('bhdi,bhdj->bhij', q.flatten(3), k.flatten(3))
        vertical = _offset_logits(q.mT, self.rel_h).transpose(2, 3)
        horizontal = _offset_logits(q, self.rel_w)
        # (B, h, H_i, W_i, H_j, W_j)
        position = vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)
        position = position.flatten(4).flatten(2, 3)
        similarity = torch.cat([content, position], dim=1)
        similarity = self.similarity_norm(similarity)
        similarity = similarity.unflatten(1, (2, -1)).sum(dim=1)
        attn = similarity.softmax(dim=-1)  # over keys
        out = torch.einsum('bhij,bhvj->bhvi', attn, v.flatten(3))
        return self.out_norm(out.flatten(1, 2).unflatten(-1, x.shape[2:]))


def _offset_logits(q: Tensor, table: Tensor) -> Tensor:
    """Logits of the offsets along the last axis.

    Args:
        q: ``(B, h, D, A, L)``.
        table: ``(2 * L - 1, D)``.

    Returns:
        ``(B, h, A, L, L)``: queries, then keys.
    """
    length = q.shape[-1]
    position = torch.arange(length, device=q.device)
    offset = position - position[:, None] + length - 1  # key - query
    logits = torch.einsum('bhdal,rd->bhalr', q, table)
    return logits.gather(-1, offset.expand(*logits.shape[:-1], -1))


class PrintedContext(ReleasedContext):
    """The same from the loops that the paper prints."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        out = reference.lesa_attention(
            q, k, v, self.rel_h, self.rel_w, self.similarity_norm
        )
        return self.out_norm(out.flatten(1, 2))


def context(channels: int, size: tuple[int, int], impl: str) -> LESA2d:
    """The context term alone, of this package."""
    return LESA2d(
        channels,
        num_heads=NUM_HEADS,
        rel_pos_size=size,
        variant='attention',
        impl=impl,
    )


def released(size: tuple[int, int]) -> Candidate:
    """The baseline, for maps of one size."""
    return Candidate(
        'context',
        'released',
        lambda channels: ReleasedContext(channels, size),
        n_by_n(*MATRICES),
    )


def candidates(size: tuple[int, int]) -> tuple[Candidate, ...]:
    """The baseline and this package's forms, for maps of one size."""
    return (
        released(size),
        *(
            Candidate('context', impl, lambda c, impl=impl: context(c, size, impl))
            for impl in IMPLS
        ),
    )


def check_parity() -> None:
    """Compares the released form with the loops, and ours with it, in float64.

    Raises:
        ParityError: If outputs, gradients or running statistics differ.
    """
    size, channels = (3, 4), 2 * NUM_HEADS
    layers = {
        'the loops': PrintedContext(channels, size),
        'released': ReleasedContext(channels, size),
    }
    _compare(layers, _images(channels, size))
    size, channels = (7, 11), 8 * NUM_HEADS
    layers = {'released': ReleasedContext(channels, size)}
    layers |= {impl: context(channels, size, impl) for impl in IMPLS}
    _compare(layers, _images(channels, size))


def _images(channels: int, size: tuple[int, int]) -> Tensor:
    """Two images that differ: statistics must be those of both."""
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    return torch.stack([x[0], 3 * x[1] + 1])


def _compare(layers: dict[str, nn.Module], x: Tensor) -> None:
    first, *others = layers.values()
    draw_norms(first)
    for other in others:
        getattr(other, 'context', other).load_state_dict(first.state_dict())
    check_same("LESA's context term", layers, x)


class Asked(NamedTuple):
    """What the cost was asked to be, relative to the released formulation.

    Attributes:
        what: Name of the row.
        mode: 'inference' or 'training'.
        key: Column of the CSV.
        part: One part of so many.
        aim: Likewise, hoped for.
    """

    what: str
    mode: str
    key: str
    part: float
    aim: float


ASKED_SIZE = (80, 80)
ASKED = (
    Asked('peak memory, inference', 'inference', 'peak_mb', 28, 40),
    Asked('peak memory, training step', 'training', 'peak_mb', 18, 25),
    Asked('time, inference', 'inference', 'ms_median', 5, 8),
    Asked('time, training step', 'training', 'ms_median', 3, 5),
)
GROWTH_SIZES = ((64, 64), (128, 128))
GROWTH = 4.5


def asked_and_measured(rows: Sequence[Row]) -> str:
    """Tabulates the ratios that were asked for beside those in the rows."""

    def number(impl: str, mode: str, size: tuple[int, int], key: str) -> float:
        for row in rows:
            place = (row['impl'], row['mode'], (row['H'], row['W']))
            if place == (impl, mode, size) and row['ms_median'] != DOES_NOT_FIT:
                return row[key]
        return float('nan')

    def text(template: str, value: float) -> str:
        return template.format(value) if value == value else 'not measured'

    height, width = ASKED_SIZE
    body = []
    for what, mode, key, part, aim in ASKED:
        base = number('released', mode, ASKED_SIZE, key)
        ratios = (base / number(impl, mode, ASKED_SIZE, key) for impl in IMPLS)
        body.append(
            [
                f'{what}, {height} x {width}, of the released',
                f'1/{part}',
                f'1/{aim}',
                *(text('1/{:.1f}', ratio) for ratio in ratios),
            ]
        )
    small, large = GROWTH_SIZES
    for mode in ('inference', 'training'):
        growths = (
            number(impl, mode, large, 'peak_mb') / number(impl, mode, small, 'peak_mb')
            for impl in IMPLS
        )
        name = {'inference': mode, 'training': 'training step'}[mode]
        sizes = ' to '.join(f'{height} x {width}' for height, width in GROWTH_SIZES)
        body.append(
            [
                f'peak memory, {name}, {sizes}',
                f'{GROWTH}',
                '',
                *(text('{:.2f}', growth) for growth in growths),
            ]
        )
    return markdown(('', 'asked, at most', 'aim', *IMPLS), body)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--models', action='store_true', help='backbones instead of the layer'
    )
    parser.add_argument(
        '--sizes',
        type=parse_size,
        nargs='+',
        metavar='HxW',
        help=f'of maps; default: {" ".join(SIZES)}. With --models of images; default: '
        '512x512 1024x1024',
    )
    parser.add_argument(
        '--channels', type=int, default=256, help='of the layer; default: 256'
    )
    add_common_options(parser)


def run(args: argparse.Namespace) -> None:
    check_parity()
    if args.models:
        from benchmarks import lesa_models  # mmdet, which the layer does without

        lesa_models.run(args)
        return
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    known = environment(device) | dict(dtype=args.dtype)
    rows: list[Row] = []
    for size in args.sizes or parse_sizes(SIZES):
        chosen = candidates(size)
        for mode in ('inference', 'training'):
            print('{} x {}, {}'.format(*size, mode), flush=True)
            x = torch.randn(1, args.channels, *size, device=device, dtype=dtype)
            measured = measure(chosen, x, mode == 'training', args.seconds)
            place = dict(mode=mode, H=size[0], W=size[1])
            rows += rows_of(chosen, measured, known | place, chosen[0])
            write_csv(rows, args.out / 'lesa.csv')
    plot(rows, chosen[1], PEAK_PANELS).savefig(args.out / 'lesa.png', dpi=110)
    print(summaries(rows))
    print()
    print(asked_and_measured(rows))
    print(f'wrote {args.out / "lesa.csv"} and {args.out / "lesa.png"}')
