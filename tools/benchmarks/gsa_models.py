"""GSA-ResNet-50 beside ResNet-50, both with their classifiers, and stage by stage.

The breakdown runs the sixteen modules, and the sixteen 3x3 convolutions that they
replace, each on a map of the size that it has in the network, and then says by torch's
profiler which operations the modules' inference spends its time in.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from complexity import count
from mmdet.models.backbones.resnet import ResNet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from attn_plugins.mm.models.detection import GSAResNet
from benchmarks.measure import (
    Candidate,
    Step,
    layer_step,
    measure,
    network_step,
    time_in_turns,
)
from benchmarks.report import Row, environment, rows_of, write_csv
from benchmarks.tables import markdown

SIZES = ((224, 224),)
NUM_CLASSES = 1000
RATIO = 'ratio_to_resnet'
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'params', 'gflops',
    'ms_median', 'ms_min', 'repeats', RATIO, 'peak_mb', 'kept_mb', 'note', 'torch',
    'threads', 'hardware', 'commit',
)  # fmt: skip
STAGE_COLUMNS = (
    'stage', 'modules', 'mode', 'dtype', 'device', 'H', 'W', 'convolutions_ms',
    'gsa_ms', 'ratio', 'torch', 'threads', 'hardware', 'commit',
)  # fmt: skip
# What an operation is, by what its name holds; the first that fits.
KINDS = {
    'products': ('mm', 'matmul', 'linear', 'dot'),
    'copies': ('copy', 'clone', 'contiguous', 'cat'),
    'softmax': ('softmax',),
    'norm': ('norm',),
    'pooling': ('pool',),
    'sums': ('add', 'sum', 'mul'),
}
PROFILED_REPEATS = 10


class Classifier(nn.Module):
    """A backbone, the mean over all pixels, and a linear layer."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.feat_dim, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def resnet() -> nn.Module:
    return Classifier(ResNet(50, out_indices=(3,), norm_eval=False))


def gsa_resnet(size: tuple[int, int]) -> nn.Module:
    """GSA-ResNet-50 with position tables laid out for images of this size."""
    backbone = GSAResNet(50, rel_pos_input_size=size, out_indices=(3,), norm_eval=False)
    return Classifier(backbone)


def candidates(size: tuple[int, int]) -> tuple[Candidate, ...]:
    """Both networks, for images of one size."""
    return (
        Candidate('ResNet-50', 'mmdet', lambda channels: resnet(), step=network_step),
        Candidate(
            'GSA-ResNet-50',
            'this package',
            lambda channels: gsa_resnet(size),
            step=network_step,
        ),
    )


class Slot(NamedTuple):
    """A layer in the place of a 3x3 convolution, with a map of its size."""

    stage: int
    layer: nn.Module
    x: Tensor


def slots(network: Classifier, image: Tensor) -> list[Slot]:
    """Collects `conv2` of every block, with maps as large as those for the image."""
    backbone = network.backbone
    blocks = [
        (stage, block)
        for stage, name in enumerate(backbone.res_layers, start=1)
        for block in getattr(backbone, name)
    ]
    shapes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        shapes[layer] = inputs[0].shape

    handles = [block.conv2.register_forward_pre_hook(note) for _, block in blocks]
    network.eval()
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return [
        Slot(
            stage,
            block.conv2,
            torch.randn(shapes[block.conv2], device=image.device, dtype=image.dtype),
        )
        for stage, block in blocks
    ]


def _all_in_turn(chosen: Sequence[Slot], training: bool) -> Step:
    pairs = [layer_step(slot.layer, slot.x.detach(), training) for slot in chosen]

    def step() -> None:
        for forward, backward in pairs:
            backward(forward())

    return step


def stage_rows(
    convolutions: Sequence[Slot], modules: Sequence[Slot], seconds: float, known: Row
) -> list[Row]:
    """Times the convolutions and the modules of every stage, in turns."""
    kinds = {'convolutions': convolutions, 'gsa': modules}
    stages = sorted({slot.stage for slot in modules})
    rows: list[Row] = []
    for mode in ('inference', 'training'):
        steps = {
            (kind, stage): _all_in_turn(
                [slot for slot in found if slot.stage == stage], mode == 'training'
            )
            for kind, found in kinds.items()
            for stage in stages
        }
        for step in steps.values():
            step()
        times = time_in_turns(steps, seconds, modules[0].x.device)
        medians = {key: statistics.median(found) for key, found in times.items()}
        for stage in (*stages, 'all'):
            part = stages if stage == 'all' else [stage]
            ours, theirs = (
                sum(medians[kind, stage] for stage in part)
                for kind in ('gsa', 'convolutions')
            )
            rows.append(
                dict(
                    known,
                    stage=stage,
                    modules=sum(slot.stage in part for slot in modules),
                    mode=mode,
                    convolutions_ms=round(theirs, 3),
                    gsa_ms=round(ours, 3),
                    ratio=round(ours / theirs, 3),
                )
            )
    return rows


def kind_of(operation: str) -> str:
    """Sorts an operation of torch's profiler, e.g. ``aten::bmm``."""
    name = operation.removeprefix('aten::')
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return 'other'


def spent(step: Step) -> dict[str, float]:
    """Milliseconds of a step on a CPU, by kinds of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        for _ in range(PROFILED_REPEATS):
            step()
    total = dict.fromkeys((*KINDS, 'other'), 0.0)
    for event in prof.key_averages():
        total[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: time / 1e3 / PROFILED_REPEATS for kind, time in total.items()}


def stage_table(rows: Sequence[Row]) -> str:
    """Tabulates the stages."""
    keys = ('modules', 'mode', 'convolutions_ms', 'gsa_ms', 'ratio')
    body = [[str(row[key]) for key in ('stage', *keys)] for row in rows]
    return markdown(('stage', *keys), body)


def operation_table(modules: Sequence[Slot]) -> str:
    """Tabulates where the inference of the modules spends its time, stage by stage."""
    stages = sorted({slot.stage for slot in modules})
    body = []
    for stage in (*stages, 'all'):
        part = [slot for slot in modules if stage in (slot.stage, 'all')]
        step = _all_in_turn(part, training=False)
        step()
        body.append([str(stage), *(f'{ms:.2f}' for ms in spent(step).values())])
    return '\n'.join(
        (
            markdown(('stage', *KINDS, 'other'), body),
            '',
            "Milliseconds of the modules in inference, by torch's profiler, which adds "
            'to each operation some time of its own.',
        )
    )


def run(args: argparse.Namespace) -> None:
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    known = environment(device) | dict(dtype=args.dtype)
    rows: list[Row] = []
    stages: list[Row] = []
    for size in args.sizes or SIZES:
        chosen = candidates(size)
        place = known | dict(H=size[0], W=size[1])
        image = torch.randn(1, 3, *size, device=device, dtype=dtype)
        costs = {candidate.name: _cost(candidate, size) for candidate in chosen}
        for mode in ('inference', 'training'):
            print('{} x {}, {}'.format(*size, mode), flush=True)
            measured = measure(chosen, image, mode == 'training', args.seconds)
            new = rows_of(chosen, measured, place | dict(mode=mode), chosen[0], RATIO)
            for row, candidate in zip(new, chosen, strict=True):
                row |= costs[candidate.name]
            rows += new
            write_csv(rows, args.out / 'gsa_models.csv', COLUMNS)
        convolutions, modules = (
            slots(candidate.build(3).to(image), image) for candidate in chosen
        )
        print('{} x {}, stages'.format(*size), flush=True)
        stages += stage_rows(convolutions, modules, args.seconds, place)
        write_csv(stages, args.out / 'gsa_stages.csv', STAGE_COLUMNS)
        if device.type == 'cpu':
            print(operation_table(modules))
    print()
    print(_network_table(rows))
    print()
    print(stage_table(stages))
    print(f'wrote {args.out / "gsa_models.csv"} and {args.out / "gsa_stages.csv"}')


def _cost(candidate: Candidate, size: tuple[int, int]) -> Row:
    params, norm_params, macs = count(lambda: candidate.build(3), (1, 3, *size))
    return dict(params=params + norm_params, gflops=round(2e-9 * macs, 3))


def _network_table(rows: Sequence[Row]) -> str:
    keys = ('mode', 'params', 'gflops', 'ms_median', 'ms_min', RATIO, 'peak_mb')
    body = [
        [f'{row["method"]}, {row["H"]} x {row["W"]}', *(str(row[key]) for key in keys)]
        for row in rows
    ]
    return markdown(('', *keys), body)
