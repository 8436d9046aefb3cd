"""Time and memory of external attention beside what it replaces, parity first.

The layer is compared with the plain order of the paper, and the plain order with the
released one, in float64, values and gradients; if they differ, nothing is measured.
"""

import argparse
import functools

import torch
import torch.nn.functional as F
from complexity import PEERS
from torch import Tensor, nn

from attn_plugins.modules import ExternalAttention2d, SelfAttention2d
from benchmarks.measure import Candidate, Steps, layer_step, measure, n_by_n, nothing
from benchmarks.options import add_common_options, parse_size, parse_sizes
from benchmarks.parity import check_same
from benchmarks.report import Row, environment, plot, rows_of, summary, write_csv

NUM_SLOTS = 64
RELEASED_EPS = 1e-9
SIZES = ('32x32', '64x64', '48x96', '96x96', '128x128')

# Baselines


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
            n_by_n(2, 3) if peer.name in ('dual attention', 'non-local') else nothing,
            frozen_norms,
        )
        for peer in PEERS
    ),
)


def check_parity() -> None:
    """Compares both folded orders and the released one with the plain, in float64.

    Raises:
        ParityError: If outputs, gradients or running statistics differ.
    """
    channels = 24
    x = torch.randn(2, channels, 7, 11, dtype=torch.float64)
    layers = {
        'plain': ExternalAttention2d(channels, order='plain', eps=RELEASED_EPS),
        'folded': ExternalAttention2d(channels, order='folded', eps=RELEASED_EPS),
        'folded, in place': ExternalAttention2d(
            channels, order='folded', eps=RELEASED_EPS, inplace=True
        ),
        'released': ReleasedExternalAttention(channels),
    }
    plain = layers['plain']
    # Both memories start equal; apart, a mix-up of the two cannot pass.
    nn.init.normal_(plain.value.weight)
    for name in ('folded', 'folded, in place'):
        layers[name].load_state_dict(plain.state_dict())
    # The released layer has the same parameters in the same order, as convolutions.
    with torch.no_grad():
        for mine, theirs in zip(
            plain.parameters(), layers['released'].parameters(), strict=True
        ):
            theirs.copy_(mine.view_as(theirs))
    check_same('external attention', layers, x)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--sizes',
        type=parse_size,
        nargs='+',
        metavar='HxW',
        default=parse_sizes(SIZES),
    )
    parser.add_argument('--channels', type=int, default=512)
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=sorted({candidate.method for candidate in EXTERNAL}),
        metavar='METHOD',
        help='only these, e.g. external "self-attention"; default: all',
    )
    add_common_options(parser)


def run(args: argparse.Namespace) -> None:
    check_parity()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    of_methods = [c for c in EXTERNAL if c.method in (args.methods or {c.method})]
    known = environment(device) | dict(dtype=args.dtype)
    rows: list[Row] = []
    for height, width in args.sizes:
        for mode in ('inference', 'training'):
            print(f'{height} x {width}, {mode}', flush=True)
            # Training never works in place.
            chosen = [c for c in of_methods if mode == 'inference' or c != IN_PLACE]
            x = torch.randn(1, args.channels, height, width, device=device, dtype=dtype)
            measured = measure(chosen, x, mode == 'training', args.seconds)
            rows += rows_of(
                chosen,
                measured,
                known | dict(mode=mode, H=height, W=width),
                RELEASED,
            )
            write_csv(rows, args.out / 'external.csv')
    plot(rows, FOLDED).savefig(args.out / 'external.png', dpi=110)
    print(summary(rows))
    print(f'wrote {args.out / "external.csv"} and {args.out / "external.png"}')
