"""What all attention layers are to the code around them."""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

Queries = Sequence[tuple[int, int]]  # row and column of each


class PixelWeights(NamedTuple):
    """Attention of pixels to pixels, and of terms to each other.

    Attributes:
        queries: Weights of all pixels for the given ones, ``(B, Q, h, H, W)``; each
            query's sum to 1 in a head.
        own: Weight of each pixel for itself, ``(B, h, H, W)``: where attention is all
            there is, the share of its unary term (LESA, Table 1). None elsewhere.
        gate: The weight w of LESA's context term, ``(B, C, H, W)``: the local term has
            the share 1 / (1 + w), the context w / (1 + w). None without a gate.
    """

    queries: Tensor
    own: Tensor | None = None
    gate: Tensor | None = None

    @property
    def context_share(self) -> Tensor:
        """Share of LESA's context term by its gate, ``(B, C, H, W)``."""
        return self.gate / (1 + self.gate)


def check_eval(layer: nn.Module) -> None:
    """Raises ``ValueError`` in training mode."""
    if layer.training:
        raise ValueError(
            f'{type(layer).__name__} is in training mode, in which its batch norms '
            'would see the picture: call eval() on the model first'
        )


class AttentionLayer(nn.Module):
    """A layer that gives its own attention maps, and keeps its own initialisation.

    Its method ``attention`` computes the weights that ``forward`` has, with the same
    projections, for pictures and tests.

    Attributes:
        attention_kind: What these weights are: 'slots', of pixels or tokens to memory
            slots; 'pixels', of given pixels to all; 'axes', of given pixels by content,
            along columns and along rows; None where there is nothing to draw.
    """

    attention_kind: ClassVar[Literal['slots', 'pixels', 'axes'] | None] = None

    def init_weights(self) -> None:
        """Keeps a parent's ``init_cfg`` from initialising this layer its own way."""
        self.reset_parameters()
