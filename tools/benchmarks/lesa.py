"""LESA's context term beside the released formulation, which holds N x N matrices."""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attn_plugins.modules import LESA2d
from benchmarks.measure import Candidate, Case, n_by_n
from benchmarks.tables import MACHINE

NUM_HEADS = 8
MATRICES = 6 * NUM_HEADS, 8 * NUM_HEADS  # of the released form: see there
SIZES = ('32x32', '64x64', '80x80', '48x96', '128x128')
IMPLS = ('blocks', 'sdpa')
RATIO = 'ratio_to_released'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'ms_median', 'ms_min',
    'repeats', RATIO, 'peak_mb', 'kept_mb', 'note', *MACHINE,
)  # fmt: skip
PANELS = {
    (mode, column): f'{title}, {unit}'
    for column, unit in (('ms_median', 'ms'), ('peak_mb', 'peak MB'))
    for mode, title in (('inference', 'inference'), ('training', 'training step'))
}


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


def cases(args: argparse.Namespace, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    for size in sizes:
        chosen = candidates(size)
        shape = (1, args.channels or 256, *size)
        for mode in ('inference', 'training'):
            yield Case(chosen, shape, mode, (chosen[0], RATIO), [{}] * len(chosen))
