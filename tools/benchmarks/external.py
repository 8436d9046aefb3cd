"""External attention beside its peers and the released implementation."""

import argparse
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from complexity import PEERS
from torch import Tensor, nn

from attn_plugins.modules import ExternalAttention2d, SelfAttention2d
from benchmarks.measure import Candidate, Case, Steps, layer_step, n_by_n
from benchmarks.tables import MACHINE

NUM_SLOTS = 64
RELEASED_EPS = 1e-9
SIZES = ('32x32', '64x64', '48x96', '96x96', '128x128')
RATIO = 'ratio_to_released'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'ms_median', 'ms_min',
    'repeats', RATIO, 'peak_mb', 'kept_mb', 'note', *MACHINE,
)  # fmt: skip
PANELS = {
    ('inference', 'ms_median'): 'inference, ms',
    ('training', 'ms_median'): 'training step, ms',
    ('inference', 'peak_mb'): 'inference, peak MB',
    ('training', 'kept_mb'): 'kept for backward, MB',
}


class ReleasedExternalAttention(nn.Module):
    """The released EANet's block as its authors wrote it, memories apart."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.linear_0 = nn.Conv1d(channels, NUM_SLOTS, 1, bias=False)
        self.linear_1 = nn.Conv1d(NUM_SLOTS, channels, 1, bias=False)
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        query = self.conv1(x).flatten(2)
        attn = F.softmax(self.linear_0(query), dim=-1)  # over pixels
        attn = attn / (RELEASED_EPS + attn.sum(dim=1, keepdim=True))  # over slots
        attended = self.linear_1(attn).view_as(x)
        return F.relu(self.conv2(attended) + x)


class BareProducts(nn.Module):
    """What external attention cannot do without: two products, residual, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(NUM_SLOTS, channels) * channels**-0.5)
        self.value = nn.Parameter(torch.randn(1, channels, NUM_SLOTS))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        value = self.value.expand(len(x), -1, -1)
        return torch.baddbmm(pixels, value, self.key @ pixels).relu_().view_as(x)


def refilled(layer: nn.Module, x: Tensor, training: bool) -> Steps:
    """A step that overwrites its input; refilling that counts."""
    buffer = x.clone()
    step, backward = layer_step(layer, buffer, training)

    def forward() -> Tensor:
        buffer.copy_(x)
        return step()

    return forward, backward


class AttentionProduct(nn.Module):
    """The two N x N products of plain self-attention: no projection, no softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        return (pixels @ (pixels.mT @ pixels)).view_as(x)


# At batch 1 a map that is pooled to one pixel has no statistics (APC).
frozen_norms = functools.partial(layer_step, frozen_norms=True)

RELEASED = Candidate('external', 'released', ReleasedExternalAttention)
FOLDED = Candidate(
    'external', 'folded', lambda c: ExternalAttention2d(c, order='folded')
)
IN_PLACE = Candidate(
    'external',
    'folded, in place',
    lambda c: ExternalAttention2d(c, order='folded', inplace=True),
    step=refilled,
)
EXTERNAL = (
    RELEASED,
    FOLDED,
    IN_PLACE,
    Candidate('external', 'plain', lambda c: ExternalAttention2d(c, order='plain')),
    Candidate('external', 'bare products', BareProducts),
    Candidate('self-attention', 'fused', SelfAttention2d, step=frozen_norms),
    Candidate('self-attention', 'N x N product', AttentionProduct, n_by_n(1, 2)),
    *(
        Candidate(
            peer.name,
            'mm',
            peer.build,
            n_by_n(2, 3)
            if peer.name in ('dual attention', 'non-local')
            else n_by_n(0, 0),
            frozen_norms,
        )
        for peer in PEERS
    ),
)


def cases(args: argparse.Namespace, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    for height, width in sizes:
        for mode in ('inference', 'training'):
            chosen = [
                candidate
                for candidate in EXTERNAL
                if candidate.method in (args.methods or {candidate.method})
                # Training never works in place.
                and (mode == 'inference' or candidate != IN_PLACE)
            ]
            shape = (1, args.channels or 512, height, width)
            yield Case(chosen, shape, mode, (RELEASED, RATIO), [{}] * len(chosen))
