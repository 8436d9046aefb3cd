"""Batch norm in closed form, over one process and over several."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close

from attn_plugins.functional.batch_norm import batch_norm_values, scale_and_shift


def through(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)`` by scale and shift."""
    dims = (0, 2, 3)
    values, moments = batch_norm_values(norm), None
    if values.needs_moments:
        moments = x.mean(dims), x.var(dims, unbiased=False)
    scale, shift = scale_and_shift(values, moments, x[:, 0].numel())
    return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'options', [{}, dict(momentum=None), dict(affine=False), dict(eps=0.1)]
)
def test_equals_batch_norm(options, training):
    norm = nn.BatchNorm2d(3, **options).double()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    twin = copy.deepcopy(norm).train(training)
    norm.train(training)
    for _ in range(2):
        x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
        assert_close(through(norm, x), twin(x))
    assert_close(dict(norm.named_buffers()), dict(twin.named_buffers()))


def test_one_value_is_refused_in_training():
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match='more than 1 value per channel, got 1'):
        through(norm, torch.randn(1, 3, 1, 1))
    assert torch.isfinite(through(norm.eval(), torch.randn(1, 3, 1, 1))).all()


def test_only_batch_norms_fold():
    class Same(nn.BatchNorm2d):
        """As what mmengine makes of a SyncBatchNorm on one device."""

        def _check_input_dim(self, x):
            pass

    class Other(nn.BatchNorm2d):
        def forward(self, x):
            return x

    for norm in (Same(3), nn.BatchNorm2d(3), nn.SyncBatchNorm(3), Other(3).eval()):
        assert batch_norm_values(norm) is not None
    for norm in (Other(3), nn.GroupNorm(1, 3)):
        assert batch_norm_values(norm) is None


def images() -> tuple[Tensor, Tensor]:
    """Four images, and weights of the output that no symmetry can cancel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, generator=generator) + 10
    return x, torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does: one has 1 image, the other has 3."""
    dist.init_process_group(
        'gloo', init_method=f'file://{folder / "meet"}', rank=rank, world_size=2
    )
    norm = nn.SyncBatchNorm(3).double()
    x, weight = (t[:1] if rank == 0 else t[1:] for t in images())
    x = x.clone().requires_grad_()
    out = through(norm, x)
    (out * weight).sum().backward()
    result = (out.detach(), x.grad, norm.running_mean, norm.running_var)
    torch.save(result, folder / f'{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason='torch without gloo')
def test_two_processes_equal_one(tmp_path):
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))

    norm = nn.BatchNorm2d(3).double()
    x, weight = images()
    x.requires_grad_()
    expected = norm(x)
    (expected * weight).sum().backward()
    for index, wanted in enumerate((expected.detach(), x.grad)):
        assert_close(torch.cat([first[index], second[index]]), wanted)
    for result in (first, second):
        assert_close(result[2:], (norm.running_mean, norm.running_var))


if __name__ == '__main__':
    work(int(sys.argv[1]), Path(sys.argv[2]))
