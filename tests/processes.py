"""What the tests of several processes share: their start, and a SyncBN for CPUs."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel


def forward(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """What ``nn.SyncBatchNorm.forward`` computes on GPUs, and refuses on a CPU.

    Plain sums of float64, all-reduced: nothing of the package's own closed form.
    """
    if not norm.training:
        statistics = norm.running_mean, norm.running_var
        return F.batch_norm(x, *statistics, norm.weight, norm.bias, eps=norm.eps)
    flat = x.double().transpose(0, 1).flatten(1)
    count = torch.full_like(flat[:, 0], flat.shape[1])
    sums = all_reduce(torch.stack([flat.sum(1), flat.square().sum(1), count]))
    mean, square, n = sums[0] / sums[2], sums[1] / sums[2], sums[2].detach()
    var = square - mean.square()
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.to(x.dtype), norm.momentum)
        norm.running_var.lerp_((var * n / (n - 1)).to(x.dtype), norm.momentum)
    scale = norm.weight / (var + norm.eps).sqrt()
    shape = (1, -1) + (1,) * (x.dim() - 2)
    out = x * scale.view(shape) + (norm.bias - mean * scale).view(shape)
    return out.to(x.dtype)


def run_script(path: str, folder: Path, *world_sizes: int) -> dict[int, list]:
    """Runs a script that ends in :func:`save_all`, and returns what that saved.

    Args:
        path: The script.
        folder: Where to save it.
        *world_sizes: The numbers of processes, of those that the script names; none is
            all.
    """
    if not dist.is_gloo_available():
        pytest.skip('torch without gloo')
    command = [sys.executable, '-W', 'ignore', path, folder, *map(str, world_sizes)]
    # Before what is there, by which another tree than the installed one may be tested.
    paths = (str(Path(__file__).parent), os.environ.get('PYTHONPATH', ''))
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    result = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return torch.load(folder / 'all.pt')


def save_all(work: Callable[[], object], world_sizes: Iterable[int]) -> None:
    """Saves what ``work()`` returns in each process, by the number of processes.

    They are forks, so what is imported is there. That needs a caller that has computed
    nothing in several threads: a script, not the process of the tests.

    Args:
        work: The function; torch's default group is of the processes it runs in.
        world_sizes: The numbers of processes.
    """
    folder, *chosen = sys.argv[1:]
    sizes = [n for n in world_sizes if not chosen or str(n) in chosen]
    results = {n: _start(work, n, Path(folder)) for n in sizes}
    torch.save(results, Path(folder, 'all.pt'))


def _start(work: Callable[[], object], world_size: int, folder: Path) -> list:
    fork = multiprocessing.get_context('fork')
    processes = [
        fork.Process(target=_enter, args=(work, rank, world_size, folder))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world_size
    return [torch.load(folder / f'{world_size}.{r}.pt') for r in range(world_size)]


def _enter(
    work: Callable[[], object], rank: int, world_size: int, folder: Path
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder / f"{world_size}.meet"}',
        rank=rank,
        world_size=world_size,
        timeout=timedelta(minutes=5),
    )
    nn.SyncBatchNorm.forward = forward
    # All that it does is to refuse them.
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None
    torch.save(work(), folder / f'{world_size}.{rank}.pt')
    dist.destroy_process_group()
