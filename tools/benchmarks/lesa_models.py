"""LESA-ResNet-50 beside ResNet-50, and with the released context term.

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
from benchmarks.lesa import NUM_HEADS, ReleasedContext
from benchmarks.measure import Candidate, Case, network_step, peak_memory
from benchmarks.tables import MACHINE

SIZES = ('512x512', '1024x1024')
RATIO = 'ratio_to_resnet'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'params', 'ms_median',
    'ms_min', 'repeats', RATIO, 'peak_mb', 'kept_mb', 'note', *MACHINE,
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
    for block in network.attention_blocks():
        channels = block.conv2.context.out_norm.num_features
        block.conv2.context = ReleasedContext(channels, block.conv2.rel_pos_size)
    return network


def candidates(size: tuple[int, int], rest: int = 0) -> tuple[Candidate, ...]:
    """What is measured at one size of images.

    Args:
        size: Height and width of the images.
        rest: Bytes that a step with the released form holds beside its N x N matrices.
    """
    with torch.device('meta'):
        layers = [block.conv2 for block in lesa_resnet(size).attention_blocks()]
    pixels = [math.prod(layer.rel_pos_size) for layer in layers]
    matrices = KEPT * sum(n**2 for n in pixels) + PASSING * max(pixels) ** 2

    def needed(x: Tensor, training: bool) -> int:
        return rest + matrices * len(x) * x.element_size()

    def candidate(method, impl, build, needed=lambda x, training: 0) -> Candidate:
        return Candidate(method, impl, lambda c: build(), needed, network_step)

    lesa = 'LESA-ResNet-50'
    return (
        candidate('ResNet-50', 'mmdet', resnet),
        candidate(lesa, 'this package', lambda: lesa_resnet(size)),
        candidate(lesa, 'released context', lambda: released_resnet(size), needed),
    )


def cases(args: argparse.Namespace, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    for size in sizes:
        x = torch.randn(1, 3, *size, device=device, dtype=dtype)
        forward, backward = network_step(lesa_resnet(size).to(x), x, True)
        rest = peak_memory(lambda f=forward, b=backward: b(f()), device)
        chosen = candidates(size, rest)
        with torch.device('meta'):
            networks = [candidate.build(3) for candidate in chosen]
        facts = [dict(params=sum(p.numel() for p in n.parameters())) for n in networks]
        yield Case(chosen, (1, 3, *size), 'training', (chosen[0], RATIO), facts)
