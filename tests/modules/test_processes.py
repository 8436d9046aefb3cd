"""Two and four processes learn what one learns from the same images."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from processes import run_script, save_all
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from attn_plugins.modules import ExternalAttention2d, GlobalSelfAttention, LESA2d

pytestmark = pytest.mark.slow

CHANNELS = 8
NORM = dict(norm_layer=nn.SyncBatchNorm)
LESA = dict(num_heads=2, rel_pos_size=5, **NORM)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    'ea': lambda: ExternalAttention2d(CHANNELS, num_slots=4, **NORM),
    'gsa': lambda: GlobalSelfAttention(CHANNELS, 2, rel_pos_size=5, **NORM),
    'lesa': lambda: LESA2d(CHANNELS, **LESA),
    'lesa-recomputed': lambda: LESA2d(CHANNELS, with_cp=True, **LESA),
    'lesa-static': lambda: LESA2d(CHANNELS, variant='static', **LESA),
    'lesa-attention': lambda: LESA2d(CHANNELS, variant='attention', **LESA),
    'lesa-augmentation': lambda: LESA2d(CHANNELS, variant='augmentation', **LESA),
    'lesa-flat': lambda: LESA2d(CHANNELS, position='flat', **LESA),
}
# Images of the global batch; over as many processes they are 1 + 1, 2 + 1, ...
BATCHES = {2: (4, 3), 4: (4, 5)}
STEPS = 3
TOLERANCE = dict(atol=1e-5, rtol=1e-5)


class Net(nn.Module):
    """A layer between convolutions, and a loss per image."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.norm = nn.SyncBatchNorm(CHANNELS)
        self.layer = LAYERS[layer]()
        self.out = nn.Conv2d(CHANNELS, 4, 1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return (self.out(self.layer(x)) - target).square().mean((1, 2, 3))


def batch(size: int, step: int) -> tuple[Tensor, Tensor]:
    """Images of very different statistics, and targets."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 3, 4, 5, generator=generator)
    scale = torch.arange(1.0, size + 1).view(-1, 1, 1, 1)
    return x * scale + scale, torch.randn(size, 4, 4, 5, generator=generator)


def learn(layer: str, size: int) -> dict[str, Tensor]:
    """Takes a few steps; returns the losses, gradients of the images, and weights.

    In several processes each has its part of the batch, with the weight of its part in
    the loss, and DDP has its default settings.
    """
    net = Net(layer)
    rank, world = 0, 1
    if dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
        net = DistributedDataParallel(net)
    else:
        net = one_process(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    result = {}
    for step in range(STEPS):
        x, target = (part.tensor_split(world)[rank] for part in batch(size, step))
        x = x.clone().requires_grad_()
        loss = net(x, target).sum() * (world / size)  # DDP takes the mean of processes
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        result[f'loss {step}'] = loss.detach()
        result[f'image {step}'] = x.grad
    net = getattr(net, 'module', net)
    return {**result, **net.state_dict()}


def one_process(net: nn.Module) -> nn.Module:
    """Makes plain batch norms of the synchronised ones."""
    for module in net.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = nn.BatchNorm2d
    return net


def learn_all() -> dict:
    sizes = BATCHES[dist.get_world_size()]
    return {(layer, size): learn(layer, size) for layer in LAYERS for size in sizes}


@pytest.fixture(scope='module', params=[2, pytest.param(4, marks=pytest.mark.slow)])
def world(request) -> int:
    return request.param


@pytest.fixture(scope='module')
def learned(world, tmp_path_factory) -> list[dict]:
    """Results of each process."""
    return run_script(__file__, tmp_path_factory.mktemp('processes'), world)[world]


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('odd', [False, True])
def test_equal_one_process(learned, layer, world, odd):
    size = BATCHES[world][odd]
    expected = learn(layer, size)
    results = [result[layer, size] for result in learned]
    for step in range(STEPS):
        losses = [result[f'loss {step}'] for result in results]
        images = [result[f'image {step}'] for result in results]
        assert_close(sum(losses) / world, expected.pop(f'loss {step}'), **TOLERANCE)
        grads = torch.cat(images) / world
        assert_close(grads, expected.pop(f'image {step}'), **TOLERANCE)
    for result in results:
        weights = {name: result[name] for name in expected}
        assert_close(weights, expected, **TOLERANCE)


if __name__ == '__main__':
    save_all(learn_all, BATCHES)
