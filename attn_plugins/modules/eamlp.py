"""The layers of EAMLP and of the T2T-ViTs that it is compared with.

Source: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers
for Visual Tasks", arXiv 2105.02358, sections 3.3 and 4.3, Table II; biases and sizes
as in the layouts of the released EAMLP-7, -14 and -19. The blocks' multi-head external
attention is :class:`~attn_plugins.modules.MultiHeadExternalAttention`.

Those that attend to the tokens of the tokens-to-token stage (T2T-ViT, arXiv 2101.11986)
bring them to another width, so that the shortcut is inside: around the attention, from
the projected tokens on.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import check_normalization
from ..functional.external import Normalization, normalize_logits
from ..functional.performer import performer_attention, query_weights
from .checks import check_positive, check_tokens
from .layer import AttentionLayer


def _draw(*linears: nn.Linear) -> None:
    """Draws weights as vision transformers do: normal, of deviation 0.02."""
    for linear in linears:
        nn.init.trunc_normal_(linear.weight, std=0.02)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


class TokenExternalAttention(AttentionLayer):
    """External attention of the tokens-to-token stage: ``q + W_o EA(q)``, ``q = W x``.

    The first softmax is over the N tokens, the L1 norm over the S slots.

    Args:
        in_channels: Channels of the tokens that come in.
        out_channels: Channels of the tokens that go out.
        num_slots: Slots S of the memory; None is twice ``out_channels``, as released.
        normalization: 'double' (eq. 9 to 11) or 'softmax' (over slots).
        eps: Added to the L1 norm of double normalisation.

    Raises:
        ValueError: If a size is not positive, a choice is unknown, or the input is not
            ``(B, N, in_channels)``.

    Example:
        >>> TokenExternalAttention(147, 64)(torch.rand(2, 49, 147)).shape
        torch.Size([2, 49, 64])
    """

    attention_kind = 'slots'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_slots: int | None = None,
        *,
        normalization: Normalization = 'double',
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        num_slots = 2 * out_channels if num_slots is None else num_slots
        check_positive(
            in_channels=in_channels, out_channels=out_channels, num_slots=num_slots
        )
        check_normalization(normalization, eps)
        self.in_channels = in_channels
        self.normalization = normalization
        self.eps = eps
        self.query = nn.Linear(in_channels, out_channels)
        self.key = nn.Linear(out_channels, num_slots, bias=False)
        self.value = nn.Linear(num_slots, out_channels)
        self.out = nn.Linear(out_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _draw(self.query, self.key, self.value, self.out)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(self, x)
        query = self.query(x)
        return query + self.out(self.value(self._attention(query)))

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor:
        """Attention to each memory slot, ``(B, S, N)``.

        Args:
            x: The layer's input, ``(B, N, C)``.
        """
        check_tokens(self, x)
        return self._attention(self.query(x)).mT

    def _attention(self, query: Tensor) -> Tensor:
        """``(B, N, S)``."""
        return normalize_logits(
            self.key(query),
            normalization=self.normalization,
            eps=self.eps,
            slot_dim=2,
            pixel_dim=1,
        )

    def extra_repr(self) -> str:
        return f'normalization={self.normalization!r}, eps={self.eps}'


class TokenPerformer(AttentionLayer):
    """Performer of the tokens-to-token stage: ``v + W_o P(q, k, v)``, one head.

    Args:
        in_channels: Channels of the tokens that come in.
        out_channels: Channels of the tokens that go out.
        num_features: Random features; None is half of ``out_channels``, as in T2T-ViT.

    The features are drawn once, orthogonal, of length ``num_features ** 0.5`` as in
    T2T-ViT, and never trained. They are part of the state dict.

    Raises:
        ValueError: If a size is not positive, or the input is not
            ``(B, N, in_channels)``.

    Example:
        >>> TokenPerformer(147, 64)(torch.rand(2, 49, 147)).shape
        torch.Size([2, 49, 64])
    """

    def __init__(
        self, in_channels: int, out_channels: int, num_features: int | None = None
    ) -> None:
        super().__init__()
        num_features = (
            max(out_channels // 2, 1) if num_features is None else num_features
        )
        check_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            num_features=num_features,
        )
        self.in_channels = in_channels
        self.qkv = nn.Linear(in_channels, 3 * out_channels)
        self.out = nn.Linear(out_channels, out_channels)
        self.register_buffer('features', torch.empty(num_features, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _draw(self.qkv, self.out)
        nn.init.orthogonal_(self.features, gain=len(self.features) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(self, x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return v + self.out(performer_attention(q, k, v, self.features))

    @torch.no_grad()
    def attention(self, x: Tensor, queries: Sequence[int]) -> Tensor:
        """Weights of all tokens for some, ``(B, Q, N)``.

        Args:
            x: The layer's input, ``(B, N, C)``.
            queries: Tokens in [0, N).
        """
        check_tokens(self, x)
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        return query_weights(q, k, self.features, queries)


class TokenMLP(AttentionLayer):
    """What is left of external attention without its norms and with a GELU in between.

    The row "MLP-7" of Table II, of which the paper says no more than that it fails.
    Nothing goes from one token to another here, so a class token never sees the image.

    Args:
        in_channels: Channels of the tokens that come in.
        out_channels: Channels of the tokens that go out.
        mid_channels: Channels in between; None is four times ``out_channels``.

    Raises:
        ValueError: If a size is not positive, or the input is not
            ``(B, N, in_channels)``.

    Example:
        >>> TokenMLP(147, 64)(torch.rand(2, 49, 147)).shape
        torch.Size([2, 49, 64])
    """

    def __init__(
        self, in_channels: int, out_channels: int, mid_channels: int | None = None
    ) -> None:
        super().__init__()
        mid_channels = 4 * out_channels if mid_channels is None else mid_channels
        check_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            mid_channels=mid_channels,
        )
        self.in_channels = in_channels
        self.query = nn.Linear(in_channels, mid_channels)
        self.out = nn.Linear(mid_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _draw(self.query, self.out)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(self, x)
        return self.out(F.gelu(self.query(x)))


class TokenBatchNorm(nn.Module):
    """Batch norm for tokens ``(B, N, C)``: per channel, over all tokens of all images.

    EAMLP-BN has it in the place of the layer norm before each block's MLP.

    Args:
        norm: The batch norm of C channels; a synchronised one works as well.

    Example:
        >>> TokenBatchNorm(nn.BatchNorm1d(8))(torch.rand(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, 1)).view_as(x)
