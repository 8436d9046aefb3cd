"""Self-attention as a layer for feature maps: the baseline of Table I and Table XII.

Source: Guo et al., arXiv 2105.02358, eq. 1 and 2, in the place of external attention in
EANet's block: q, k, v and output projections, norm, residual, ReLU. The paper names the
baseline (its reference 16) without printing it; scaling by ``D ** -0.5`` is that
reference's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import check_normalization
from ..functional.external import Normalization
from ..functional.self_attention import own_weight, query_weights, self_attention
from .checks import check_divides, check_map, check_positive
from .layer import AttentionLayer, PixelWeights, Queries


class SelfAttention2d(AttentionLayer):
    """``relu(x + norm(W_o SA(x)))`` on ``(B, C, H, W)`` maps; cost grows as N squared.

    Args:
        in_channels: Channels of the map.
        num_heads: Heads.
        normalization: 'softmax' over keys, or 'double' (eq. 9 to 11).
        norm_layer: Makes the last norm from a channel count.

    Raises:
        ValueError: If a size is not positive, the heads do not divide the channels, a
            choice is unknown, or the input's channels are not ``in_channels``.

    Example:
        >>> SelfAttention2d(64)(torch.rand(2, 64, 7, 9)).shape
        torch.Size([2, 64, 7, 9])
    """

    attention_kind = 'pixels'
    _abbr_ = 'self_attention'

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 1,
        *,
        normalization: Normalization = 'softmax',
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, num_heads=num_heads)
        check_divides(num_heads=num_heads, in_channels=in_channels)
        check_normalization(normalization)
        self.in_channels = in_channels
        self.num_heads = num_heads
        self.normalization = normalization
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=False)
        self.out = nn.Linear(in_channels, in_channels, bias=False)
        self.norm = norm_layer(in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws Xavier-uniform weights, each projection on its own."""
        for weight in (*self.qkv.weight.chunk(3), self.out.weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        check_map(self, x)
        out = self_attention(*self._heads(x), normalization=self.normalization)
        out = self.out(out.transpose(1, 2).flatten(2)).mT
        return F.relu(x + self.norm(out.reshape(x.shape)))

    @torch.no_grad()
    def attention(self, x: Tensor, queries: Queries) -> PixelWeights:
        """Weights of all pixels for some, and of each for itself.

        Args:
            x: The layer's input, ``(B, C, H, W)``.
            queries: Row and column of the pixels whose attention is wanted.
        """
        check_map(self, x)
        q, k, _ = self._heads(x)
        options = dict(normalization=self.normalization)
        pixels = [row * x.shape[3] + column for row, column in queries]
        return PixelWeights(
            query_weights(q, k, pixels, **options).unflatten(-1, x.shape[2:]),
            own=own_weight(q, k, **options).unflatten(-1, x.shape[2:]),
        )

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``(B, h, N, D)`` each."""
        return tuple(
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in self.qkv(x.flatten(2).mT).chunk(3, dim=-1)
        )

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, num_heads={self.num_heads}, '
            f'normalization={self.normalization!r}'
        )
