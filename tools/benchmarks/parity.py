"""What is measured must compute the same: compared in float64, before measuring."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class ParityError(AssertionError):
    """A candidate does not compute what it is measured for."""


def draw_norms(layer: nn.Module) -> None:
    """Draws weights and statistics of norms: at 1 and 0 a mix-up of two could pass."""
    for module in layer.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)


def check_same(method: str, layers: Mapping[str, nn.Module], x: Tensor) -> None:
    """Compares the layers with the first of them, in training and in inference.

    Args:
        method: What the error calls them.
        layers: By name; of equal weights, in the same order. Training moves their
            running statistics.
        x: Their input, in float64.

    Raises:
        ParityError: If outputs, gradients or running statistics differ.
    """
    (first, expected), *others = layers.items()
    for training in (True, False):
        wanted = _outcome(expected, x, training)
        for name, layer in others:
            found = _outcome(layer, x, training)
            for (what, mine), theirs in zip(
                wanted.items(), found.values(), strict=True
            ):
                try:
                    torch.testing.assert_close(theirs.view_as(mine), mine)
                except (AssertionError, RuntimeError) as error:
                    mode = 'training' if training else 'inference'
                    raise ParityError(
                        f'{method}, {name} against {first}, {mode}, {what}: {error}'
                    ) from error


def _outcome(layer: nn.Module, x: Tensor, training: bool) -> dict[str, Tensor]:
    """Output, gradients and buffers of one step; in inference also without autograd."""
    layer.double()
    layer.train(training)  # a ResNet of mm returns nothing
    x = x.clone().requires_grad_()
    out = _joined(layer(x))
    # Weights that no symmetry can cancel.
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    grads = torch.autograd.grad(out, [x, *parameters], seed)
    gradients = zip(('input', *names), grads, strict=True)
    outcome = (
        {'output': out.detach()}
        | {f'gradient of {name}': grad for name, grad in gradients}
        | {name: buffer.clone() for name, buffer in layer.named_buffers()}
    )
    if not training:  # as it is measured: some layers take another way then
        with torch.no_grad():
            outcome['output without autograd'] = _joined(layer(x.detach()))
    return outcome


def _joined(out: Tensor | Sequence[Tensor]) -> Tensor:
    """Flattens the stages of a network into one tensor; a layer's map stays."""
    if isinstance(out, Tensor):
        return out
    return torch.cat([stage.flatten() for stage in out])
