"""Time and peak memory of candidates that take turns.

All candidates are timed in rounds within one run, so that a drift of the machine hits
all of them. Peak memory is what torch's allocator held above what it held before the
call: the input and the weights are not in it. On a CPU it is summed up from the memory
events of torch's profiler, on CUDA it is max_memory_allocated. "Kept" is what stays for
backward, without the parameters, the input and the output.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

MIN_REPEATS = 3

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
    """Returns forward, up to the sum of the outputs, and backward of a network.

    An image needs no gradient.
    """
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


def nothing(x: Tensor, training: bool) -> int:
    """Bytes that have to be there: what there are no N x N matrices for."""
    return 0


def n_by_n(inference: float, training: float) -> Callable[[Tensor, bool], int]:
    """Bytes of as many N x N matrices as inference, and a training step, hold."""

    def needed(x: Tensor, is_training: bool) -> int:
        matrices = training if is_training else inference
        n_squared = x.shape[2:].numel() ** 2 * len(x) * x.element_size()
        return int(matrices * n_squared)

    return needed


class Candidate(NamedTuple):
    """One line of the plot.

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
    needed: Callable[[Tensor, bool], int] = nothing
    step: Callable[[nn.Module, Tensor, bool], Steps] = layer_step

    @property
    def name(self) -> str:
        return f'{self.method}, {self.impl}'


class Measurement(NamedTuple):
    """Times in milliseconds, memory in bytes."""

    times: list[float]
    peak: int
    kept: int


def measure(
    candidates: Sequence[Candidate], x: Tensor, training: bool, seconds: float
) -> dict[str, Measurement | None]:
    """Measures the candidates on one input; None is for what does not fit."""
    steps, memory = {}, {}
    for candidate in candidates:
        if candidate.needed(x, training) > available_memory(x.device):
            continue
        layer = candidate.build(x.shape[1]).to(x)
        forward, backward = candidate.step(layer, x.detach(), training)

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
    """Bytes that can be allocated."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()  # what it holds for the next tensor counts as used
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
