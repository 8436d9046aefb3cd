"""Time and peak memory of candidates that take turns.

In turns, so that a drift of the machine hits all of them. Peak memory is what torch's
allocator held above what it held before the call: input and weights are not in it. On a
CPU it is the sum of the memory events of torch's profiler. "Kept" is what stays for
backward, without parameters, input and output.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from benchmarks.tables import DOES_NOT_FIT, Row

TURNS = 3

Step = Callable[[], Tensor]
Steps = tuple[Step, Callable[[Tensor], None]]  # forward, backward of its result


def layer_step(
    layer: nn.Module, x: Tensor, training: bool, *, frozen_norms: bool = False
) -> Steps:
    """Returns forward and backward of a layer; inference has no backward.

    Args:
        layer: The layer.
        x: Its input, whose gradient is computed as well.
        training: Whether to train or to infer.
        frozen_norms: Whether batch norms keep their statistics in training.
    """
    if not training:
        return _inference(layer, x)
    layer.train()
    if frozen_norms:
        for module in layer.modules():
            if isinstance(module, _BatchNorm):
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


def network_step(network: nn.Module, x: Tensor, training: bool) -> Steps:
    """Returns forward, up to the sum of the outputs, and backward of a network."""
    if not training:
        return _inference(network, x)
    network.train()

    def forward() -> Tensor:
        network.zero_grad()
        out = network(x)
        return out.sum() if isinstance(out, Tensor) else sum(o.sum() for o in out)

    return forward, Tensor.backward


def _inference(module: nn.Module, x: Tensor) -> Steps:
    module.eval()
    return torch.no_grad()(lambda: module(x)), lambda out: None


def n_by_n(inference: float, training: float) -> Callable[[Tensor, bool], int]:
    """Bytes of as many N x N matrices as inference, and a training step, hold."""

    def needed(x: Tensor, is_training: bool) -> int:
        matrices = training if is_training else inference
        n_squared = x.shape[2:].numel() ** 2 * len(x) * x.element_size()
        return int(matrices * n_squared)

    return needed


class Candidate(NamedTuple):
    """What is measured.

    Attributes:
        method: The kind of attention.
        impl: Whose code, or which form of it.
        build: Makes it for a number of channels.
        needed: Bytes that it holds at least, for an input, in training or not.
        step: Makes its forward and backward, for an input, in training or not.
    """

    method: str
    impl: str
    build: Callable[[int], nn.Module]
    needed: Callable[[Tensor, bool], int] = lambda x, training: 0
    step: Callable[[nn.Module, Tensor, bool], Steps] = layer_step


def measure(
    candidates: Sequence[Candidate],
    x: Tensor,
    training: bool,
    seconds: float,
    baseline: tuple[Candidate, str] | None = None,
) -> list[Row]:
    """Measures candidates on one input.

    Args:
        candidates: The candidates.
        x: The input.
        training: Whether to train or to infer.
        seconds: Time for each.
        baseline: The candidate whose time is 1, and the column of the others' ratios.

    Returns:
        A row for each; one whose memory would not suffice is not run.
    """
    rows: list[Row] = []
    steps: list[Step | None] = []
    for candidate in candidates:
        row: Row = dict(method=candidate.method, impl=candidate.impl)
        rows.append(row)
        if candidate.needed(x, training) > available_memory(x.device):
            row |= dict(ms_median=DOES_NOT_FIT, note='computed from N x N')
            steps.append(None)
            continue
        layer = candidate.build(x.shape[1]).to(x)
        forward, backward = candidate.step(layer, x.detach(), training)

        def step(forward: Step = forward, backward: Callable = backward) -> None:
            backward(forward())

        row['peak_mb'] = round(peak_memory(step, x.device) / 1e6, 2)
        kept = kept_memory(forward, x, layer) if training else 0
        row['kept_mb'] = round(kept / 1e6, 2)
        steps.append(step)
    found = iter(time_in_turns([step for step in steps if step], seconds))
    medians = {}
    for candidate, row, step in zip(candidates, rows, steps, strict=True):
        if step:
            times = next(found)
            medians[candidate] = median = statistics.median(times)
            row |= dict(ms_median=round(median, 3), ms_min=round(min(times), 3))
            row['repeats'] = len(times)
    if baseline and baseline[0] in medians:
        for candidate, row in zip(candidates, rows, strict=True):
            if candidate in medians:
                ratio = medians[candidate] / medians[baseline[0]]
                row[baseline[1]] = round(ratio, 4)
    return rows


def time_in_turns(
    steps: Sequence[Callable[[], object]], seconds: float
) -> list[list[float]]:
    """Times every step for about ``seconds``, in turns; milliseconds."""
    threads = torch.get_num_threads()
    timers = [Timer('step()', globals=dict(step=s), num_threads=threads) for s in steps]
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(TURNS):
        for timer, of_step in zip(timers, times, strict=True):
            found = timer.blocked_autorange(min_run_time=max(seconds / TURNS, 1e-6))
            of_step += [1e3 * time for time in found.times]
    return times


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that the step had allocated at most, above what was there before."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
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
    """Bytes that can be allocated."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()  # what it holds for the next tensor counts as used
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


class Case(NamedTuple):
    """Candidates that are measured on one input.

    Attributes:
        candidates: The candidates.
        shape: Shape of the input, ``(B, C, H, W)``.
        mode: 'inference' or 'training'.
        baseline: The candidate whose time is 1, and the column of the others' ratios.
        facts: Further columns of each candidate.
    """

    candidates: Sequence[Candidate]
    shape: tuple[int, ...]
    mode: str
    baseline: tuple[Candidate, str]
    facts: Sequence[Row]
