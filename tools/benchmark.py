"""Time and memory of attention layers beside what they replace, parity first.

    python tools/benchmark.py external --out docs/benchmarks
    python tools/benchmark.py external --sizes 64x64 97x129 --dtype bfloat16
    python tools/benchmark.py models                 # EA configs, their stock bases

`external` first compares the layer with the plain order of the paper, and the plain
order with the released one, in float64, values and gradients; if they differ, nothing
is measured. All candidates then take turns within one run, so that a drift of the
machine hits all of them.

Peak memory is what torch's allocator held above what it held before the call: the
input and the weights are not in it. On a CPU it is summed up from the memory events of
torch's profiler, on CUDA it is max_memory_allocated. "Kept" is what stays for backward,
without the parameters, the input and the output of the layer.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from complexity import MODEL_PAIRS, PEERS, build_model, load_model_config, markdown
from matplotlib.figure import Figure
from mmdet.testing import demo_mm_inputs
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from attn_plugins.modules import ExternalAttention2d, SelfAttention2d

NUM_SLOTS = 64
MIN_REPEATS = 3
RELEASED_EPS = 1e-9
SIZES = ('32x32', '64x64', '48x96', '96x96', '128x128')
COLUMNS = (
    'method', 'impl', 'mode', 'dtype', 'device', 'H', 'W', 'ms_median', 'ms_min',
    'repeats', 'ratio_to_released', 'peak_mb', 'kept_mb', 'note', 'torch', 'threads',
    'hardware', 'commit',
)  # fmt: skip
DOES_NOT_FIT = 'does not fit'

Step = Callable[[], Tensor]
Row = dict[str, object]


class ParityError(AssertionError):
    """A candidate does not compute what it is measured for."""


class Measurement(NamedTuple):
    """Times in milliseconds, memory in bytes."""

    times: list[float]
    peak: int
    kept: int


class Candidate(NamedTuple):
    """One line of the plot.

    Attributes:
        method: The kind of attention.
        impl: Whose code, or which form of it.
        build: Makes it for a number of channels.
        matrices: N x N matrices that a forward, and a training step, have in memory.
    """

    method: str
    impl: str
    build: Callable[[int], nn.Module]
    matrices: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        return f'{self.method}, {self.impl}'


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


class AttentionProduct(nn.Module):
    """The two N x N products of plain self-attention: no projection, no softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        return (pixels @ (pixels.mT @ pixels)).view_as(x)


RELEASED = Candidate('external', 'released', ReleasedExternalAttention)
EXTERNAL = (
    RELEASED,
    Candidate('external', 'folded', lambda c: ExternalAttention2d(c, order='folded')),
    Candidate('external', 'plain', lambda c: ExternalAttention2d(c, order='plain')),
    Candidate('external', 'bare products', BareProducts),
    Candidate('self-attention', 'fused', SelfAttention2d),
    Candidate('self-attention', 'N x N product', AttentionProduct, (1, 2)),
    *(
        Candidate(
            peer.name,
            'mm',
            peer.build,
            (2, 3) if peer.name in ('dual attention', 'non-local') else (0, 0),
        )
        for peer in PEERS
    ),
)


# Parity


def check_external_parity() -> None:
    """Compares folded with plain and plain with released, in float64.

    Raises:
        ParityError: If outputs, gradients or running statistics differ.
    """
    channels = 24
    x = torch.randn(2, channels, 7, 11, dtype=torch.float64)
    layers = {
        'folded': ExternalAttention2d(channels, order='folded', eps=RELEASED_EPS),
        'plain': ExternalAttention2d(channels, order='plain', eps=RELEASED_EPS),
        'released': ReleasedExternalAttention(channels),
    }
    plain = layers['plain']
    # Both memories start equal; apart, a mix-up of the two cannot pass.
    nn.init.normal_(plain.value.weight)
    layers['folded'].load_state_dict(plain.state_dict())
    # The released layer has the same parameters in the same order, as convolutions.
    with torch.no_grad():
        for mine, theirs in zip(
            plain.parameters(), layers['released'].parameters(), strict=True
        ):
            theirs.copy_(mine.view_as(theirs))
    for training in (True, False):
        expected, *others = (
            _outcome(layers[name].double().train(training), x)
            for name in ('plain', 'folded', 'released')
        )
        for name, outcome in zip(('folded', 'released'), others, strict=True):
            for mine, theirs in zip(expected, outcome, strict=True):
                try:
                    torch.testing.assert_close(theirs.view_as(mine), mine)
                except AssertionError as error:
                    raise ParityError(
                        f'external attention, {name} against plain, '
                        f'{"training" if training else "inference"}: {error}'
                    ) from error


def _outcome(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients and buffers of one step."""
    x = x.clone().requires_grad_()
    out = layer(x)
    # Weights that no symmetry can cancel.
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    grads = torch.autograd.grad(out, [x, *layer.parameters()], seed)
    return [out.detach(), *grads, *(buffer.clone() for buffer in layer.buffers())]


# Measuring


def layer_step(layer: nn.Module, x: Tensor, training: bool) -> tuple[Step, Step]:
    """Returns forward and backward of a layer; inference has no backward."""
    if not training:
        layer.eval()
        return torch.no_grad()(lambda: layer(x)), lambda out: None
    layer.train()
    if not isinstance(layer, (ExternalAttention2d, ReleasedExternalAttention)):
        # At batch 1 a map that is pooled to one pixel has no statistics (APC).
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    x.requires_grad_()

    def forward() -> Tensor:
        x.grad = None
        layer.zero_grad()
        out = layer(x)
        # The branches of a head stand side by side.
        return torch.cat(out, dim=1) if isinstance(out, list) else out

    seed = forward().detach().clone()
    return forward, lambda out: out.backward(seed)


def time_in_turns(
    steps: Mapping[str, Step], seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Times every step for about ``seconds``, one after the other in rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    pending = dict(steps)
    while pending:
        for name, step in list(pending.items()):
            _synchronize(device)
            start = time.perf_counter()
            step()
            _synchronize(device)
            times[name].append((time.perf_counter() - start) * 1e3)
            enough = len(times[name]) >= MIN_REPEATS
            if enough and sum(times[name]) >= seconds * 1e3:
                del pending[name]
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(step: Step, device: torch.device) -> int:
    """Bytes that the step had allocated at most, above what was there before."""
    if device.type == 'cuda':
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it reports every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        step()
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in prof.profiler.kineto_results.events()
        if event.name() == '[memory]'
    )
    return int(np.cumsum([0, *(nbytes for _, nbytes in events)]).max())


def kept_memory(forward: Step, x: Tensor, layer: nn.Module) -> int:
    """Bytes of the distinct storages that forward keeps for backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Nothing that is kept is freed before the end, so that addresses are distinct.
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    for known in (x, out, *layer.parameters()):
        kept.pop(known.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def available_memory(device: torch.device) -> int:
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def measure(
    candidates: Sequence[Candidate], x: Tensor, training: bool, seconds: float
) -> dict[str, Measurement | None]:
    """Measures the candidates on one input; None is for what does not fit."""
    steps, memory = {}, {}
    n_squared = x.shape[2:].numel() ** 2 * len(x) * x.element_size()
    for candidate in candidates:
        if candidate.matrices[training] * n_squared > available_memory(x.device):
            continue
        layer = candidate.build(x.shape[1]).to(x)
        forward, backward = layer_step(layer, x.detach(), training)

        def step(forward: Step = forward, backward: Callable = backward) -> None:
            backward(forward())

        kept = 0
        if training:
            kept = kept_memory(forward, x, layer)
        memory[candidate.name] = (peak_memory(step, x.device), kept)
        steps[candidate.name] = step
    times = time_in_turns(steps, seconds, x.device)
    measured = {name: Measurement(times[name], *memory[name]) for name in steps}
    return {c.name: measured.get(c.name) for c in candidates}


# Reporting


def environment(device: torch.device) -> Row:
    """What a number depends on, besides the code."""
    hardware = f'{os.cpu_count()} cores of {_cpu_name()}'
    if device.type == 'cuda':
        hardware = torch.cuda.get_device_name(device)
    git = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty']
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout
    return dict(
        device=device.type,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        hardware=hardware,
        commit=commit.strip() or 'unknown',
    )


def _cpu_name() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if 'model name' in line]
    return names[0] if names else 'an unknown CPU'


def rows_of(
    candidates: Sequence[Candidate],
    measured: Mapping[str, Measurement | None],
    known: Row,
) -> list[Row]:
    """Makes CSV rows out of the measurements at one size."""
    released = measured.get(RELEASED.name)
    rows = []
    for candidate in candidates:
        row = dict.fromkeys(COLUMNS, '')
        row |= dict(known, method=candidate.method, impl=candidate.impl)
        found = measured[candidate.name]
        if found is None:
            row |= dict(ms_median=DOES_NOT_FIT, note='computed from N x N')
        else:
            median = statistics.median(found.times)
            row |= dict(
                ms_median=round(median, 3),
                ms_min=round(min(found.times), 3),
                repeats=len(found.times),
                peak_mb=round(found.peak / 1e6, 2),
                kept_mb=round(found.kept / 1e6, 2),
            )
            if released is not None:
                ratio = median / statistics.median(released.times)
                row['ratio_to_released'] = round(ratio, 4)
        rows.append(row)
    return rows


def write_csv(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def plot(rows: Sequence[Row]) -> Figure:
    """Draws time and memory against the number of pixels, a line per candidate."""
    panels = (
        ('inference', 'ms_median', 'inference, ms'),
        ('training', 'ms_median', 'training step, ms'),
        ('inference', 'peak_mb', 'inference, peak MB'),
        ('training', 'kept_mb', 'kept for backward, MB'),
    )
    colours = matplotlib.color_sequences['petroff10']
    names = list(dict.fromkeys((row['method'], row['impl']) for row in rows))
    figure = Figure(figsize=(13, 4.2), layout='constrained')
    for axes, (mode, key, title) in zip(
        figure.subplots(1, len(panels)), panels, strict=True
    ):
        for index, name in enumerate(names):
            points = sorted(
                (row['H'] * row['W'], row[key])
                for row in rows
                if (row['method'], row['impl']) == name
                and row['mode'] == mode
                and row['ms_median'] != DOES_NOT_FIT
            )
            axes.plot(
                *zip(*points, strict=True) if points else ([], []),
                label=', '.join(name),
                color=colours[index % len(colours)],
                linestyle='-' if index < len(colours) else '--',
                linewidth=2.5 if name == ('external', 'folded') else 1.2,
                marker='o',
                markersize=3,
            )
        axes.set(title=title, xlabel='pixels', xscale='log', yscale='log')
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc='outside lower center', ncols=5
    )
    return figure


def summary(rows: Sequence[Row]) -> str:
    """Tabulates the largest map."""
    largest = max(row['H'] * row['W'] for row in rows)
    rows = [row for row in rows if row['H'] * row['W'] == largest]
    keys = ('mode', 'ms_median', 'ms_min', 'ratio_to_released', 'peak_mb', 'kept_mb')
    header = (f'{rows[0]["H"]} x {rows[0]["W"]}', *keys)
    body = [
        [f'{row["method"]}, {row["impl"]}', *(str(row[key]) for key in keys)]
        for row in rows
    ]
    return markdown(header, body)


# Commands


def run_external(args: argparse.Namespace) -> None:
    check_external_parity()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    chosen = [c for c in EXTERNAL if c.method in (args.methods or {c.method})]
    known = environment(device) | dict(dtype=args.dtype)
    rows: list[Row] = []
    for height, width in args.sizes:
        for mode in ('inference', 'training'):
            print(f'{height} x {width}, {mode}', flush=True)
            x = torch.randn(1, args.channels, height, width, device=device, dtype=dtype)
            measured = measure(chosen, x, mode == 'training', args.seconds)
            rows += rows_of(
                chosen, measured, known | dict(mode=mode, H=height, W=width)
            )
            write_csv(rows, args.out / 'external.csv')
    plot(rows).savefig(args.out / 'external.png', dpi=110)
    print(summary(rows))
    print(f'wrote {args.out / "external.csv"} and {args.out / "external.png"}')


def model_step(name: str, height: int, width: int) -> Step:
    """Returns a training step (forward, loss, backward) on one drawn image."""
    model = build_model(load_model_config(name))
    model = revert_sync_batchnorm(model).train()
    if hasattr(model, 'decode_head'):
        sample = SegDataSample(metainfo=dict(img_shape=(height, width)))
        labels = torch.randint(model.num_classes, (1, height, width))
        sample.gt_sem_seg = PixelData(data=labels)
        inputs, samples = torch.randn(1, 3, height, width), [sample]
    else:
        data = demo_mm_inputs(1, [(3, height, width)], with_mask=True)
        data = model.data_preprocessor(data, True)
        inputs, samples = data['inputs'], data['data_samples']

    def step() -> Tensor:
        model.zero_grad()
        loss, _ = model.parse_losses(model.loss(inputs, samples))
        loss.backward()
        return loss.detach()

    return step


def run_models(args: argparse.Namespace) -> None:
    device = torch.device('cpu')
    height, width = args.size
    rows = []
    for pair in MODEL_PAIRS.items():
        torch.manual_seed(0)
        steps = {name: model_step(name, height, width) for name in pair}
        for step in steps.values():
            step()
        times = time_in_turns(steps, 0, device)
        ours, stock = (statistics.median(times[name]) / 1e3 for name in pair)
        rows.append([pair[0], f'{ours:.2f}', f'{stock:.2f}', f'{ours / stock:.2f}'])
        print('  '.join(rows[-1]), flush=True)
    title = f'training step, 1 x 3 x {height} x {width}'
    print(markdown((title, 'with EA, s', 'stock base, s', 'ratio'), rows))
    print(environment(device))


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise argparse.ArgumentTypeError(
            f'a size must be HxW, e.g. 97x129, got {text!r}'
        )
    return int(height), int(width)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    external = commands.add_parser('external', help='external attention, its peers')
    external.add_argument(
        '--sizes',
        type=parse_size,
        nargs='+',
        metavar='HxW',
        default=[parse_size(size) for size in SIZES],
    )
    external.add_argument('--channels', type=int, default=512)
    external.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    external.add_argument(
        '--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32'
    )
    external.add_argument(
        '--methods',
        nargs='+',
        choices=sorted({candidate.method for candidate in EXTERNAL}),
        metavar='METHOD',
        help='only these, e.g. external "self-attention"; default: all',
    )
    external.add_argument(
        '--seconds', type=float, default=2, help='time spent on each candidate'
    )
    external.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'))
    external.set_defaults(run=run_external)
    models = commands.add_parser('models', help='training step of whole models')
    models.add_argument('--size', type=parse_size, default=(256, 256), metavar='HxW')
    models.set_defaults(run=run_models)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    # What mm says while it builds is nothing that a reader could do anything about.
    warnings.filterwarnings('ignore')
    try:
        args.run(args)
    except ParityError as error:
        sys.exit(f'benchmark: error: parity failed, nothing was measured: {error}')


if __name__ == '__main__':
    main()
