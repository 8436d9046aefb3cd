"""Records what the attention layers of any model get, through forward hooks.

The model need not be of this package, nor of a framework: what counts is that somewhere
inside it holds a layer that gives its own maps, as those of ``attn_plugins.modules`` do
(``attention_kind`` and ``attention``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..spelling import closest


class Recording(NamedTuple):
    """What one layer saw of the first image of a batch.

    Attributes:
        name: Name of the layer in its model.
        layer: The layer.
        input: Its input, ``(1, C, H, W)``, or ``(1, N, C)`` tokens.
        batch: Images in its input: more than the model's where it works on windows.
        calls: How often the layer was called; the last call is recorded.
    """

    name: str
    layer: nn.Module
    input: Tensor
    batch: int
    calls: int


def attention_layers(
    model: nn.Module, names: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Finds the layers of a model that there are maps of.

    Args:
        model: Any module.
        names: Those that are wanted, by their names; None for all.

    Raises:
        ValueError: If the model has none, or none of a name that is wanted.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if getattr(module, 'attention_kind', None)
    }
    if not found:
        raise ValueError(
            f'{type(model).__name__} has none of the layers that there are maps of: '
            'external attention, LESA, GSA or self-attention of attn_plugins'
        )
    for name in names or ():
        if name not in found:
            raise ValueError(
                f'there is no attention layer {name!r}{closest(name, found)} The '
                'layers are: ' + ', '.join(found)
            )
    return {name: found[name] for name in names} if names else found


class AttentionRecorder:
    """Records the inputs of attention layers while a model runs.

    Args:
        model: Any module; the layers may be anywhere inside.
        names: Names of the layers; None for all.

    Raises:
        ValueError: As in :func:`attention_layers`.

    Attributes:
        image: What the backbone got, the first image of its last batch ``(C, H, W)``:
            what the maps lie over. Of a model without ``backbone``, the model's own
            first input.
        batch: Images in that batch.

    Example:
        >>> model = nn.Sequential(ExternalAttention2d(8)).eval()
        >>> with AttentionRecorder(model) as recorder:
        ...     _ = model(torch.rand(1, 8, 5, 6))
        >>> recorder.recordings[0].name
        '0'
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | None = None) -> None:
        self.layers = attention_layers(model, names)
        self.model = model
        self.image: Tensor | None = None
        self.batch = 0
        self._inputs: dict[str, Tensor] = {}
        self._batches: dict[str, int] = {}
        self._calls: dict[str, int] = dict.fromkeys(self.layers, 0)
        self._handles: list = []

    def __enter__(self) -> AttentionRecorder:
        entrance = getattr(self.model, 'backbone', self.model)
        self._handles.append(
            entrance.register_forward_pre_hook(self._record_image, with_kwargs=True)
        )
        for name, layer in self.layers.items():
            self._attach(name, layer)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def recordings(self) -> list[Recording]:
        """What was recorded, in the order of the model, of the layers that ran."""
        return [
            Recording(
                name,
                layer,
                self._inputs[name],
                self._batches[name],
                self._calls[name],
            )
            for name, layer in self.layers.items()
            if name in self._inputs
        ]

    def _record_image(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.ndim == 4:
                self.image, self.batch = _first(value)[0], len(value)
                return

    def _attach(self, name: str, layer: nn.Module) -> None:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            (x,) = (*args, *kwargs.values())
            self._inputs[name] = _first(x)
            self._batches[name] = len(x)
            self._calls[name] += 1

        self._handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))


def _first(x: Tensor) -> Tensor:
    # A copy: what comes after the layer may work in place.
    return x[:1].detach().clone()
