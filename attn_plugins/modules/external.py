"""External attention as a layer for feature maps, and as a neck.

Source: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers
for Visual Tasks", arXiv 2105.02358: eq. 7 to 11, Algorithm 1, Fig. 3.

Differences from the released EANet:

* The projections are folded into the memories (see ``attn_plugins.functional``), and
  the norm and the residual into the second product, in training too: same parameters,
  same function, about a ninth of the multiplications, and no map but the input and the
  output is kept for backward. The norm's own forward, hence a hook on it, is then not
  called. A norm that is not a batch norm is called as a module; then the map before
  the norm is kept.
* ``eps`` is 0 as in eq. 11, not 1e-9; set it for released weights.
* On a CPU the released code keeps both memories in one storage, so they stay tied until
  the model is moved. Here they start equal, as its author intended, and have a storage
  each; ``tied=True`` is eq. 5 and 6, one memory for both.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.batch_norm import batch_norm_values
from ..functional.checks import check_choice, check_normalization
from ..functional.external import (
    ORDERS,
    Normalization,
    Order,
    eanet_block,
    external_attention_block,
    fold_projections,
    normalize_logits,
    slot_attention,
)
from .checks import (
    check_divides,
    check_flags,
    check_map,
    check_positive,
    check_tokens,
)
from .layer import AttentionLayer


class ExternalAttention2d(AttentionLayer):
    """EANet's attention block: ``relu(x + norm(W_o EA(W x)))``.

    It keeps the shape of any ``(B, C, H, W)`` map, so it can stand anywhere in a
    network; its cost grows linearly with the number of pixels.

    Args:
        in_channels: Channels of the map.
        num_slots: Slots S of the memory.
        mid_channels: Width D of queries and memory slots; None for ``in_channels``.
        normalization: 'double' (eq. 9 to 11) or 'softmax' (over slots).
        eps: Added to the L1 norm of double normalisation.
        tied: One memory as key and value (eq. 5 and 6) rather than two (eq. 7 and 8).
        order: 'folded', also 'auto', or 'plain': speed only, the numbers are the same.
        norm_layer: Makes the last norm from a channel count.
        inplace: Whether inference may overwrite the input with the output, which saves
            a map and its time: for inputs that nothing else reads. It does within
            ``torch.no_grad()``, in the folded order with a batch norm; not under
            autocast or compiled, where the input is left alone.

    Raises:
        ValueError: If a size is not positive, a choice is unknown, or the input's
            channels are not ``in_channels``.

    Example:
        >>> layer = ExternalAttention2d(512, num_slots=64)
        >>> layer(torch.rand(2, 512, 33, 47)).shape
        torch.Size([2, 512, 33, 47])
    """

    attention_kind = 'slots'
    # mmcv names a plugin layer after this, so that state dicts do not follow renames.
    _abbr_ = 'external_attention'

    def __init__(
        self,
        in_channels: int,
        num_slots: int = 64,
        *,
        mid_channels: int | None = None,
        normalization: Normalization = 'double',
        eps: float = 0.0,
        tied: bool = False,
        order: Order = 'auto',
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        mid_channels = in_channels if mid_channels is None else mid_channels
        check_positive(
            in_channels=in_channels, num_slots=num_slots, mid_channels=mid_channels
        )
        check_normalization(normalization, eps)
        check_choice('order', order, ORDERS)
        check_flags(tied=tied, inplace=inplace)
        self.in_channels = in_channels
        self.num_slots = num_slots
        self.normalization = normalization
        self.eps = eps
        self.order = order
        self.inplace = inplace
        self.query = nn.Linear(in_channels, mid_channels)
        self.key = nn.Linear(mid_channels, num_slots, bias=False)
        self.value = None if tied else nn.Linear(num_slots, mid_channels, bias=False)
        self.out = nn.Linear(mid_channels, in_channels, bias=False)
        self.norm = norm_layer(in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights as EANet does; both memories start equal."""
        for linear in (self.query, self.key, self.out):
            # The released initialisation: variance 2 / width, for the memories too.
            nn.init.normal_(linear.weight, std=(2 / self.query.out_features) ** 0.5)
        nn.init.zeros_(self.query.bias)
        if self.value is not None:
            with torch.no_grad():
                self.value.weight.copy_(self.key.weight.T)

    def forward(self, x: Tensor) -> Tensor:
        check_map(self, x)
        pixels = x.flatten(2)
        options = dict(normalization=self.normalization, eps=self.eps)
        norm = batch_norm_values(self.norm) if self.order != 'plain' else None
        if norm is not None:
            # Without autograd, an input that wants a gradient is the first of the two
            # passes of activation checkpointing: the second needs it.
            options['inplace'] = self.inplace and not x.requires_grad
            return eanet_block(pixels, *self._weights(), norm, **options).view_as(x)
        out = external_attention_block(
            pixels, *self._weights(), order=self.order, **options
        )
        return F.relu(x + self.norm(out.view_as(x)))

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor:
        """Attention to each memory slot (Fig. 4), ``(B, S, H, W)``.

        Args:
            x: The layer's input, ``(B, C, H, W)``.
        """
        check_map(self, x)
        key, _, logit_bias = fold_projections(
            *self._weights(), normalization=self.normalization
        )
        attn = slot_attention(
            x.flatten(2),
            key,
            logit_bias=logit_bias,
            normalization=self.normalization,
            eps=self.eps,
        )
        return attn.unflatten(-1, x.shape[2:])

    def _weights(self) -> tuple[Tensor, ...]:
        """Projections and memories, in the order of the functions."""
        return (
            self.query.weight,
            self.query.bias,
            self.key.weight,
            self.key.weight if self.value is None else self.value.weight.T,
            self.out.weight,
        )

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, num_slots={self.num_slots}, '
            f'normalization={self.normalization!r}, eps={self.eps}, '
            f'tied={self.value is None}, order={self.order!r}, inplace={self.inplace}'
        )


class EANeck(nn.Module):
    """External attention at the end of chosen backbone stages, over any backbone.

    The paper's "+1EA" for detectors is the last of a ResNet's four stages. In a config
    it stands before the detector's own neck::

        neck=[dict(type='EANeck', in_channels=[256, 512, 1024, 2048]), dict(type='FPN')]

    Args:
        in_channels: Channels of each map that the backbone returns.
        stages: Indices of the maps that get attention; negative ones count from the
            last.
        num_slots: Slots S of each memory.
        **layer_options: Further options of :class:`ExternalAttention2d`.

    Raises:
        ValueError: If a stage does not exist or is named twice, or the number of maps
            is not ``len(in_channels)``.

    Example:
        >>> neck = EANeck([64, 128], stages=(1,))
        >>> maps = neck((torch.rand(1, 64, 8, 9), torch.rand(1, 128, 4, 5)))
        >>> [tuple(x.shape) for x in maps]
        [(1, 64, 8, 9), (1, 128, 4, 5)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        stages: Sequence[int] = (-1,),
        num_slots: int = 64,
        **layer_options,
    ) -> None:
        super().__init__()
        for name, value in dict(in_channels=in_channels, stages=stages).items():
            if not isinstance(value, Sequence) or not all(
                isinstance(number, int) for number in value
            ):
                raise ValueError(
                    f'{name} must be a sequence of integers, one per map, got {value!r}'
                )
        for channels in in_channels:
            check_positive(in_channels=channels)
        count = len(in_channels)
        for stage in stages:
            if not -count <= stage < count:
                raise ValueError(
                    f'stages must lie in [{-count}, {count}) for the {count} maps of '
                    f'in_channels={list(in_channels)}, got {stage}'
                )
        indices = [stage % count for stage in stages]
        if len(set(indices)) < len(indices):
            raise ValueError(f'stages must differ, got {tuple(stages)}')
        self.in_channels = list(in_channels)
        self.layers = nn.ModuleDict(
            {
                str(index): ExternalAttention2d(
                    in_channels[index], num_slots, **layer_options
                )
                for index in sorted(indices)
            }
        )

    def init_weights(self) -> None:
        """Keeps a parent's ``init_cfg`` from initialising the layers its own way."""
        for layer in self.layers.values():
            layer.init_weights()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f'EANeck(in_channels={self.in_channels}) expects '
                f'{len(self.in_channels)} maps, got {len(inputs)}'
            )
        return tuple(
            self.layers[str(index)](x) if str(index) in self.layers else x
            for index, x in enumerate(inputs)
        )


class MultiHeadExternalAttention(AttentionLayer):
    """External attention in several heads that share the memories (eq. 12 to 14).

    For tokens ``(B, N, C)``, as a replacement of multi-head self-attention. Heads and
    slots can be traded: k times the heads with a k-th of the slots costs the same
    (section 3.3); EAMLP has four times the heads at 64 slots.

    In each head the first softmax is over the N tokens, the L1 norm over the S slots.
    Folding does not pay here: the memories are only ``mid_channels / num_heads`` wide.

    Args:
        in_channels: Channels C of the tokens.
        num_heads: Heads h.
        num_slots: Slots S of the memory that the heads share.
        mid_channels: Channels of all heads together; None is ``in_channels``. EAMLP
            has ``4 * in_channels``.
        normalization: 'double' (eq. 9 to 11) or 'softmax' (over slots).
        eps: Added to the L1 norm of double normalisation.
        bias: Whether the memories are linear layers with bias. Algorithm 2 does not
            say "without bias" where Algorithm 1 does, and EAMLP has them.

    Raises:
        ValueError: If a size is not positive, the heads do not divide the channels, a
            choice is unknown, or the input does not fit.

    Example:
        >>> MultiHeadExternalAttention(64, num_heads=8)(torch.rand(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    attention_kind = 'slots'
    _abbr_ = 'multi_head_external_attention'

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        num_slots: int = 64,
        *,
        mid_channels: int | None = None,
        normalization: Normalization = 'double',
        eps: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        mid_channels = in_channels if mid_channels is None else mid_channels
        check_positive(
            in_channels=in_channels,
            num_heads=num_heads,
            num_slots=num_slots,
            mid_channels=mid_channels,
        )
        check_divides(num_heads=num_heads, mid_channels=mid_channels)
        check_normalization(normalization, eps)
        check_flags(bias=bias)
        self.in_channels = in_channels
        self.num_heads = num_heads
        self.normalization = normalization
        self.eps = eps
        width = mid_channels // num_heads
        self.query = nn.Linear(in_channels, mid_channels)
        self.key = nn.Linear(width, num_slots, bias=bias)
        self.value = nn.Linear(num_slots, width, bias=bias)
        self.out = nn.Linear(mid_channels, in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights as vision transformers do: normal, of deviation 0.02."""
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens(self, x)
        return self.out(self.value(self._attention(x)).flatten(2))

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor:
        """Attention to each memory slot in each head (Fig. 5), ``(B, h, S, N)``.

        Args:
            x: The layer's input, ``(B, N, C)``.
        """
        check_tokens(self, x)
        return self._attention(x).permute(0, 2, 3, 1)

    def _attention(self, x: Tensor) -> Tensor:
        """``(B, N, h, S)``."""
        query_bias, key, key_bias = self.query.bias, self.key.weight, self.key.bias
        if self.normalization == 'double':
            # The softmax over tokens ignores what these add to all of a slot's logits.
            # In the graph they stay, with zero gradient.
            dead = query_bias if key_bias is None else torch.cat([query_bias, key_bias])
            key = key + 0 * dead.sum()
            query_bias = key_bias = None
        heads = F.linear(x, self.query.weight, query_bias)
        heads = heads.unflatten(-1, (self.num_heads, -1))  # (B, N, h, D)
        return normalize_logits(
            F.linear(heads, key, key_bias),
            normalization=self.normalization,
            eps=self.eps,
            slot_dim=-1,
            pixel_dim=1,
        )

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, num_heads={self.num_heads}, '
            f'num_slots={self.key.out_features}, '
            f'normalization={self.normalization!r}, eps={self.eps}'
        )
