"""How much LESA and self-attention look at the pixel itself, how much at the others.

Source: Yang et al., arXiv 2107.05637, Tables 1 and 2: in LESA the local term has the
share 1 / (1 + w) and the context term w / (1 + w), with the gate w averaged over
pixels and channels; in self-attention the shares are the softmax's weight of a pixel
for itself and for all others.
"""

import torch
from torch import Tensor, nn

from .lesa import LESA2d
from .recompute import kept_statistics


class TermWeights:
    """Records the unary share of every LESA layer in a model while it runs.

    Attention augmentation sets its two terms side by side: it has no shares, and is
    left out.

    Args:
        model: Any module; the layers may be anywhere inside.

    Raises:
        ValueError: If there is no layer to record.

    Example:
        >>> model = nn.Sequential(LESA2d(16, num_heads=2, rel_pos_size=4)).eval()
        >>> with TermWeights(model) as weights:
        ...     _ = model(torch.rand(1, 16, 5, 6))
        >>> list(weights.unary)
        ['0']
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, LESA2d) and layer.variant != 'augmentation'
        }
        if not self.layers:
            raise ValueError(
                'the weights of local and context terms are those of LESA layers '
                "(variant 'dynamic', 'static' or 'attention'), and "
                f'{type(model).__name__} has none'
            )
        self.sums: dict[str, float] = dict.fromkeys(self.layers, 0.0)
        self.counts: dict[str, int] = dict.fromkeys(self.layers, 0)
        self._handles: list = []

    def __enter__(self) -> 'TermWeights':
        for name, layer in self.layers.items():
            self._handles.append(self._attach(name, layer))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def unary(self) -> dict[str, float]:
        """Average share of the unary term by layer, of the images so far."""
        return {
            name: self.sums[name] / count
            for name, count in self.counts.items()
            if count
        }

    def _attach(self, name: str, layer: LESA2d):
        def add(share: Tensor) -> None:
            self.sums[name] += share.float().mean().item() * len(share)
            self.counts[name] += len(share)

        def of_gate(module: nn.Module, inputs: tuple, gate: Tensor) -> None:
            add(1 / (1 + gate.detach()))

        @torch.no_grad()
        def of_softmax(module: nn.Module, inputs: tuple, out: Tensor) -> None:
            # In training the running statistics would move a second time.
            with kept_statistics(module):
                add(module.own_weight(inputs[0]))

        def of_sum(module: nn.Module, inputs: tuple, out: Tensor) -> None:
            add(out.new_full((len(out), 1), 0.5))

        if layer.variant == 'dynamic':
            return layer.gate.register_forward_hook(of_gate)
        if layer.variant == 'attention':
            return layer.context.register_forward_hook(of_softmax)
        return layer.register_forward_hook(of_sum)
