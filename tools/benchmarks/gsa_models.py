"""GSA-ResNet-50 beside ResNet-50, both with their classifiers, and stage by stage.

The breakdown runs the sixteen modules, and the sixteen 3x3 convolutions that they
replace, each on a map of the size that it has in the network; torch's profiler then
lists the operations that the modules' inference spends its time in.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from complexity import count
from mmdet.models.backbones.resnet import ResNet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from attn_plugins.mm.models.detection import GSAResNet
from benchmarks.measure import (
    Candidate,
    Case,
    Step,
    layer_step,
    network_step,
    time_in_turns,
)
from benchmarks.tables import MACHINE, Row, markdown, write_csv

SIZES = ('224x224',)
NUM_CLASSES = 1000
RATIO = 'ratio_to_resnet'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'params', 'gflops',
    'ms_median', 'ms_min', 'repeats', RATIO, 'peak_mb', 'kept_mb', 'note', *MACHINE,
)  # fmt: skip
STAGE_COLUMNS = (
    'stage', 'modules', 'mode', 'dtype', 'device', 'H', 'W', 'convolutions_ms',
    'gsa_ms', 'ratio', *MACHINE,
)  # fmt: skip


class Classifier(nn.Module):
    """A backbone, the mean over all pixels, and a linear layer."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.feat_dim, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def candidates(size: tuple[int, int]) -> tuple[Candidate, ...]:
    """Both networks; position tables are laid out for images of one size."""

    def resnet(channels: int) -> nn.Module:
        return Classifier(ResNet(50, out_indices=(3,), norm_eval=False))

    def gsa_resnet(channels: int) -> nn.Module:
        options = dict(rel_pos_input_size=size, out_indices=(3,), norm_eval=False)
        return Classifier(GSAResNet(50, **options))

    return (
        Candidate('ResNet-50', 'mmdet', resnet, step=network_step),
        Candidate('GSA-ResNet-50', 'this package', gsa_resnet, step=network_step),
    )


def cost(candidate: Candidate, size: tuple[int, int]) -> Row:
    params, norm_params, macs = count(lambda: candidate.build(3), (1, 3, *size))
    return dict(params=params + norm_params, gflops=round(2e-9 * macs, 3))


def cases(args: argparse.Namespace, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    for size in sizes:
        chosen = candidates(size)
        facts = [cost(candidate, size) for candidate in chosen]
        for mode in ('inference', 'training'):
            yield Case(chosen, (1, 3, *size), mode, (chosen[0], RATIO), facts)


class Slot(NamedTuple):
    """A layer in the place of a 3x3 convolution, with a map of its size."""

    stage: int
    layer: nn.Module
    x: Tensor


def slots(network: Classifier, image: Tensor) -> list[Slot]:
    """Collects `conv2` of every block, with maps as large as those for the image."""
    backbone = network.backbone
    stages = {
        block.conv2: stage
        for stage, name in enumerate(backbone.res_layers, start=1)
        for block in getattr(backbone, name)
    }
    found: list[Slot] = []

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        found.append(Slot(stages[layer], layer, torch.randn_like(inputs[0])))

    handles = [layer.register_forward_pre_hook(note) for layer in stages]
    network.eval()
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return found


def all_in_turn(chosen: Sequence[Slot], training: bool) -> Step:
    pairs = [layer_step(slot.layer, slot.x.detach(), training) for slot in chosen]

    def step() -> None:
        for forward, backward in pairs:
            backward(forward())

    return step


def stage_rows(
    convolutions: Sequence[Slot], modules: Sequence[Slot], seconds: float
) -> list[Row]:
    """Times the convolutions and the modules of every stage, in turns."""
    rows: list[Row] = []
    stages = sorted({slot.stage for slot in modules})
    for mode in ('inference', 'training'):
        steps = [
            all_in_turn([s for s in found if s.stage == stage], mode == 'training')
            for stage in stages
            for found in (convolutions, modules)
        ]
        times = [statistics.median(t) for t in time_in_turns(steps, seconds)]
        pairs = [*zip(stages, times[::2], times[1::2], strict=True)]
        for stage, theirs, ours in (*pairs, ('all', sum(times[::2]), sum(times[1::2]))):
            number = sum(stage in (slot.stage, 'all') for slot in modules)
            row = dict(convolutions_ms=theirs, gsa_ms=ours, ratio=ours / theirs)
            row = {key: round(value, 3) for key, value in row.items()}
            rows.append(dict(row, stage=stage, modules=number, mode=mode))
    return rows


def finish(args: argparse.Namespace, rows: Sequence[Row], known: Row) -> None:
    """Breaks the networks down by stage."""
    found: list[Row] = []
    for height, width in dict.fromkeys((row['H'], row['W']) for row in rows):
        image = torch.randn(1, 3, height, width, device=args.device)
        image = image.to(getattr(torch, args.dtype))
        convolutions, modules = (
            slots(candidate.build(3).to(image), image)
            for candidate in candidates((height, width))
        )
        found += [
            known | dict(H=height, W=width) | row
            for row in stage_rows(convolutions, modules, args.seconds)
        ]
        write_csv(found, args.out / 'gsa_stages.csv', STAGE_COLUMNS)
        if args.device == 'cpu':
            with profile(activities=[ProfilerActivity.CPU]) as prof:
                all_in_turn(modules, training=False)()
            print(prof.key_averages().table('self_cpu_time_total', row_limit=10))
    keys = STAGE_COLUMNS[:3] + STAGE_COLUMNS[7:10]
    print(markdown(keys, [[row[key] for key in keys] for row in found]))
    print(f'wrote {args.out / "gsa_stages.csv"}')
