"""Training steps of LESA-ResNet-50 beside ResNet-50, and with the released form.

A step is the forward, the sum of the outputs of all stages and its backward, of one
image, with all batch norms in training mode and no stage frozen.
"""

import argparse
import math
from collections.abc import Iterator

import torch
from mmdet.models.backbones.resnet import ResNet
from torch import Tensor, nn

from attn_plugins.mm.models.detection import LESAResNet
from attn_plugins.modules import LESA2d
from benchmarks.lesa import NUM_HEADS, ReleasedContext
from benchmarks.measure import Candidate, measure, network_step, peak_memory
from benchmarks.options import parse_sizes
from benchmarks.parity import check_same, draw_norms
from benchmarks.report import Row, environment, rows_of, summaries, write_csv

SIZES = ('512x512', '1024x1024')
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'params', 'ms_median',
    'ms_min', 'repeats', 'ratio_to_resnet', 'peak_mb', 'kept_mb', 'note', 'torch',
    'threads', 'hardware', 'commit',
)  # fmt: skip
# N x N matrices that a layer of the released form keeps for backward: what goes into
# the norm and what comes out of the softmax. And those that it has besides, for a time.
KEPT, PASSING = 3 * NUM_HEADS, 5 * NUM_HEADS


def resnet() -> nn.Module:
    return ResNet(50, norm_eval=False)


def lesa_resnet(size: tuple[int, int]) -> nn.Module:
    """LESA-ResNet-50 with position tables laid out for images of this size."""
    return LESAResNet(
        50, rel_pos_input_size=size, attn=dict(num_heads=NUM_HEADS), norm_eval=False
    )


def released_resnet(size: tuple[int, int]) -> nn.Module:
    """The same with the released context term; takes images of this size alone."""
    network = lesa_resnet(size)
    for layer in attention_layers(network):
        channels = layer.context.out_norm.num_features
        layer.context = ReleasedContext(channels, layer.rel_pos_size)
    return network


def attention_layers(network: nn.Module) -> Iterator[LESA2d]:
    for block in network.attention_blocks():
        yield block.conv2


def candidates(size: tuple[int, int], rest: int) -> tuple[Candidate, ...]:
    """What is measured at one size of images.

    Args:
        size: Height and width of the images.
        rest: Bytes that a step with the released form holds beside its N x N matrices.
    """
    pixels = [math.prod(layer.rel_pos_size) for layer in _layers_without_weights(size)]
    matrices = KEPT * sum(n**2 for n in pixels) + PASSING * max(pixels) ** 2

    def needed(x: Tensor, training: bool) -> int:
        return rest + matrices * len(x) * x.element_size()

    networks = (
        ('ResNet-50', 'mmdet', lambda channels: resnet()),
        ('LESA-ResNet-50', 'this package', lambda channels: lesa_resnet(size)),
    )
    return (
        *(Candidate(*network, step=network_step) for network in networks),
        Candidate(
            'LESA-ResNet-50',
            'released context',
            lambda channels: released_resnet(size),
            needed,
            network_step,
        ),
    )


def _layers_without_weights(size: tuple[int, int]) -> list[LESA2d]:
    with torch.device('meta'):
        return list(attention_layers(lesa_resnet(size)))


def check_parity(size: tuple[int, int] = (48, 64)) -> None:
    """Compares our backbone with that of the released form, in float64.

    Raises:
        ParityError: If outputs, gradients or running statistics differ.
    """
    layers = {'released': released_resnet(size), 'this package': lesa_resnet(size)}
    draw_norms(layers['released'])
    layers['this package'].load_state_dict(layers['released'].state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    check_same('LESA-ResNet-50', layers, x)


def run(args: argparse.Namespace) -> None:
    check_parity()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    known = environment(device) | dict(dtype=args.dtype, mode='training')
    rows: list[Row] = []
    for size in args.sizes or parse_sizes(SIZES):
        print('{} x {}'.format(*size), flush=True)
        x = torch.randn(1, 3, *size, device=device, dtype=dtype)
        chosen = candidates(size, _peak_of(lesa_resnet(size).to(x), x))
        measured = measure(chosen, x, True, args.seconds)
        new = rows_of(
            chosen,
            measured,
            known | dict(H=size[0], W=size[1]),
            chosen[0],
            'ratio_to_resnet',
        )
        for row, candidate in zip(new, chosen, strict=True):
            with torch.device('meta'):
                network = candidate.build(3)
            row['params'] = sum(p.numel() for p in network.parameters())
        rows += new
        write_csv(rows, args.out / 'lesa_models.csv', COLUMNS)
    print(summaries(rows, 'ratio_to_resnet'))
    print(f'wrote {args.out / "lesa_models.csv"}')


def _peak_of(network: nn.Module, x: Tensor) -> int:
    forward, backward = network_step(network, x, True)
    return peak_memory(lambda: backward(forward()), x.device)
