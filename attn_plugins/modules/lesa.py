"""LESA: a convolution's local term and self-attention's context term, fused on demand.

Source: Yang et al., "Locally Enhanced Self-Attention: Combining Self-Attention and
Convolution as Local and Context Terms", arXiv 2107.05637: eq. 5 to 7, sections 3.2,
3.3 and 4; batch norms as in the released code.

Differences from the released code:

* Any map size, square or not: tables of relative positions are cut or stretched to the
  map. The form for ImageNet takes maps up to its reference size.
* No N x N similarity in the detection form, in training either; see
  ``attn_plugins.functional.lesa``. The norm of the similarities is a real batch norm
  whose forward, hence a hook on it, is not called.
* Variants that the paper compares are one argument.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional.batch_norm import batch_norm_values
from ..functional.checks import check_choice
from ..functional.lesa import (
    context_attention,
    flat_attention,
    flat_values,
    own_weight,
    query_weights,
    scale_similarities,
)
from ..functional.lesa.blocks import IMPLS, Impl
from .checks import check_divides, check_map, check_positive, height_and_width
from .layer import AttentionLayer, PixelWeights, Queries, check_eval
from .recompute import checkpoint_forward
from .tables import resize_tables_on_load

Variant = Literal['dynamic', 'static', 'attention', 'augmentation']
Position = Literal['2d', 'flat']
NormLayer = Callable[[int], nn.Module]

VARIANTS = ('dynamic', 'static', 'attention', 'augmentation')
POSITIONS = ('2d', 'flat')


class LocalTerm(nn.Module):
    """The unary term m (eq. 6): grouped 3x3 convolution, 1x1 projection, norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        local_conv: Callable[..., nn.Module],
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.conv = local_conv(
            in_channels,
            out_channels,
            kernel_size=3,
            padding=1,
            groups=groups,
            bias=False,
        )
        self.proj = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.norm = norm_layer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(self.conv(x)))


class Gate(nn.Module):
    """The weight w of the context term, per pixel and channel (eq. 7)."""

    def __init__(self, channels: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm1 = norm_layer(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = norm_layer(channels)

    def forward(self, local: Tensor, context: Tensor) -> Tensor:
        x = torch.cat([local, context], dim=1).relu_()  # both end in a norm
        x = self.norm1(self.conv1(x)).relu_()
        return self.norm2(self.conv2(x)).sigmoid()


class _Context(nn.Module):
    """What both forms of the context term share: queries, keys, values, the norms."""

    def __init__(
        self,
        in_channels: int,
        qk_channels: int,
        v_channels: int,
        num_heads: int,
        norm_layer: NormLayer,
        *,
        terms: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.widths = [size // num_heads for size in (qk_channels, qk_channels)]
        self.widths.append(v_channels // num_heads)
        qkv_channels = 2 * qk_channels + v_channels
        self.qkv = nn.Conv2d(in_channels, qkv_channels, 1, bias=False)
        self.qkv_norm = norm_layer(qkv_channels)
        self.similarity_norm = norm_layer(terms * num_heads)
        self.out_norm = norm_layer(outputs * v_channels)
        # Evaluation only: leaves out what each pixel attends to in itself (Table 1).
        self.without_unary = False

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q, k, v, ``(B, h, D or V, H, W)`` each."""
        qkv = self.qkv_norm(self.qkv(x)).unflatten(1, (self.num_heads, -1))
        return qkv.split(self.widths, dim=2)


class ContextTerm2d(_Context):
    """The binary term with a table of offsets for each axis, on the query.

    Args:
        in_channels: Channels of the map.
        qk_channels: Channels of the queries, and of the keys, of all heads.
        v_channels: Channels of the values of all heads.
        num_heads: Heads h.
        rel_pos_size: Height and width that the tables are laid out for.
        norm_layer: Makes a batch norm from a channel count.
        impl: As in :func:`~attn_plugins.functional.lesa.relative_attention`.
    """

    def __init__(
        self,
        in_channels: int,
        qk_channels: int,
        v_channels: int,
        num_heads: int,
        rel_pos_size: tuple[int, int],
        norm_layer: NormLayer,
        impl: Impl,
    ) -> None:
        super().__init__(
            in_channels,
            qk_channels,
            v_channels,
            num_heads,
            norm_layer,
            terms=2,
            outputs=1,
        )
        if batch_norm_values(self.similarity_norm) is None:
            raise ValueError(
                'norm_layer must make batch norms with the forward of BatchNorm2d or '
                'SyncBatchNorm: that of the similarities is computed without them, got '
                f'{type(self.similarity_norm).__name__}'
            )
        self.impl = impl
        height, width = rel_pos_size
        self.rel_h = nn.Parameter(torch.empty(2 * height - 1, self.widths[0]))
        self.rel_w = nn.Parameter(torch.empty(2 * width - 1, self.widths[0]))
        resize_tables_on_load(self, ('rel_h', 'rel_w'))
        self.register_load_state_dict_pre_hook(_leave_out_flat_form)

    def reset_tables(self) -> None:
        for table in (self.rel_h, self.rel_w):
            nn.init.normal_(table, std=self.widths[0] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        out = context_attention(
            *self.heads(x),
            self.rel_h,
            self.rel_w,
            batch_norm_values(self.similarity_norm),
            impl=self.impl,
            without_unary=self.without_unary,
        )
        return self.out_norm(out.flatten(1, 2))

    def own_weight(self, x: Tensor) -> Tensor:
        """Weight of each pixel in its own sum, ``(B, h, H, W)``; for eval mode."""
        return own_weight(*self._scaled(x))

    def query_weights(self, x: Tensor, queries: Queries) -> Tensor:
        """Weights of all pixels for some, ``(B, Q, h, H, W)``; for eval mode."""
        return query_weights(*self._scaled(x), queries)

    def _scaled(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, _ = self.heads(x)
        norm = batch_norm_values(self.similarity_norm)
        return q, *scale_similarities(q, k, self.rel_h, self.rel_w, norm)


def _leave_out_flat_form(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Of a classifier's weights leaves out what the form for detection has not.

    Its table, and the norms of similarities and output, which have other channels.
    """
    if state_dict.pop(f'{prefix}rel', None) is not None:
        norms = (f'{prefix}similarity_norm.', f'{prefix}out_norm.')
        for key in [key for key in state_dict if key.startswith(norms)]:
            del state_dict[key]


class FlatContextTerm2d(_Context):
    """The binary term for ImageNet: one table of offsets, on q, k and v.

    The offset from pixel j to i of an R x R map is one number, ``dy * R + dx``. It has
    an N x N similarity, of maps that are small: up to ``rel_pos_size``.

    Args: as in :class:`ContextTerm2d`; ``rel_pos_size`` is R.
    """

    def __init__(
        self,
        in_channels: int,
        qk_channels: int,
        v_channels: int,
        num_heads: int,
        rel_pos_size: int,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__(
            in_channels,
            qk_channels,
            v_channels,
            num_heads,
            norm_layer,
            terms=3,
            outputs=2,
        )
        self.rel_pos_size = rel_pos_size
        self.rel = nn.Parameter(torch.empty(sum(self.widths), 2 * rel_pos_size**2 - 1))
        resize_tables_on_load(self, fixed=('rel',))

    def reset_tables(self) -> None:
        nn.init.normal_(self.rel, std=self.widths[2] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        attn = self._attention(q, k)
        if self.without_unary:
            attn = attn - torch.diag_embed(attn.diagonal(dim1=-2, dim2=-1))
        out = flat_values(attn, v, self.rel, self.rel_pos_size)
        out = self.out_norm(out.flatten(1, 3))  # (B, h * V * 2, H, W)
        return out.unflatten(1, (-1, 2)).sum(2)

    def own_weight(self, x: Tensor) -> Tensor:
        """Weight of each pixel in its own sum, ``(B, h, H, W)``; for eval mode."""
        own = self._attention(*self.heads(x)[:2]).diagonal(dim1=-2, dim2=-1)
        return own.unflatten(-1, x.shape[2:])

    def query_weights(self, x: Tensor, queries: Queries) -> Tensor:
        """Weights of all pixels for some, ``(B, Q, h, H, W)``; for eval mode."""
        attn = self._attention(*self.heads(x)[:2]).unflatten(-1, x.shape[2:])
        return torch.stack([attn[:, :, y * x.shape[3] + x_] for y, x_ in queries], 1)

    def _attention(self, q: Tensor, k: Tensor) -> Tensor:
        return flat_attention(q, k, self.rel, self.rel_pos_size, self.similarity_norm)


class LESA2d(AttentionLayer):
    """Locally enhanced self-attention in the place of a 3x3 convolution (eq. 5 to 7).

    ``m + w * c``: the local term m is a grouped (or deformable) convolution and a
    projection, the context term c multi-head self-attention over the whole map, the
    gate w depends on both. It works on maps of any size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; None for ``in_channels``.
        num_heads: Heads of the attention, and groups of the local convolution.
        rel_pos_size: Map size that the tables of relative positions are laid out for: a
            number or height and width. Maps up to it use the middle of the tables,
            larger ones stretch them.
        stride: 1, or 2 for average pooling after the layer.
        variant: 'dynamic' is LESA; 'static' has no gate; 'attention' is the context
            term alone (Tables 1 to 3); 'augmentation' a plain 3x3 convolution beside
            attention of a tenth of the channels (Table 6, after Bello et al.,
            arXiv 1904.09925).
        position: '2d' is the form for detection; 'flat' that for ImageNet, with an
            N x N similarity and for maps up to ``rel_pos_size``.
        local_conv: Makes the convolution of the local term, called as
            ``local_conv(in_channels, out_channels, kernel_size=3, padding=1,
            groups=num_heads, bias=False)``: a deformable one, say (section 4.2).
        norm_layer: Makes a batch norm from a channel count.
        with_cp: Whether to compute the layer again in the backward pass, which saves
            what it would keep.
        impl: Of the '2d' form, as in
            :func:`~attn_plugins.functional.lesa.relative_attention`: 'auto', 'blocks'
            or 'sdpa'. Speed and memory only.

    Raises:
        ValueError: If a size is not positive, the heads do not divide the channels, a
            choice is unknown, or the input does not fit.

    Example:
        >>> layer = LESA2d(64, rel_pos_size=16)
        >>> layer(torch.rand(2, 64, 33, 47)).shape
        torch.Size([2, 64, 33, 47])
    """

    attention_kind = 'pixels'
    _abbr_ = 'lesa'

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        num_heads: int = 8,
        rel_pos_size: int | Sequence[int],
        stride: int = 1,
        variant: Variant = 'dynamic',
        position: Position = '2d',
        local_conv: Callable[..., nn.Module] | None = None,
        norm_layer: NormLayer = nn.BatchNorm2d,
        with_cp: bool = False,
        impl: Impl = 'auto',
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        check_choice('variant', variant, VARIANTS)
        check_choice('position', position, POSITIONS)
        check_choice('impl', impl, IMPLS)
        check_positive(
            in_channels=in_channels, out_channels=out_channels, num_heads=num_heads
        )
        check_divides(num_heads=num_heads, in_channels=in_channels)
        if out_channels % (2 * num_heads):
            raise ValueError(
                'out_channels must be divisible by 2 * num_heads (queries and keys '
                f'have half of them), got out_channels={out_channels}, '
                f'num_heads={num_heads}'
            )
        if stride not in (1, 2):
            raise ValueError(f'stride must be 1 or 2, got {stride!r}')
        self.in_channels = in_channels
        self.stride = stride
        self.variant = variant
        self.position = position
        self.with_cp = with_cp
        size = height_and_width(rel_pos_size=rel_pos_size)
        self.rel_pos_size = size

        qk_channels, v_channels = out_channels // 2, out_channels
        if variant == 'augmentation':
            qk_channels = _multiple_of(num_heads, 0.2 * out_channels)
            v_channels = _multiple_of(num_heads, 0.1 * out_channels)
        context = (in_channels, qk_channels, v_channels, num_heads)
        if position == '2d':
            self.context = ContextTerm2d(*context, size, norm_layer, impl)
        elif size[0] == size[1]:
            self.context = FlatContextTerm2d(*context, size[0], norm_layer)
        else:
            raise ValueError(
                "rel_pos_size must be one number with position='flat', got "
                f'{tuple(size)}'
            )
        local_conv = nn.Conv2d if local_conv is None else local_conv
        if variant == 'augmentation':
            self.conv = local_conv(
                in_channels,
                out_channels - v_channels,
                kernel_size=3,
                padding=1,
                groups=1,
                bias=False,
            )
            self.proj = nn.Conv2d(v_channels, v_channels, 1, bias=False)
        elif variant != 'attention':
            self.local = LocalTerm(
                in_channels, out_channels, num_heads, local_conv, norm_layer
            )
        if variant == 'dynamic':
            self.gate = Gate(out_channels, norm_layer)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the convolutions as a ResNet's, queries and tables of unit variance."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out')
            elif isinstance(module, _BatchNorm):
                module.reset_parameters()
            elif hasattr(module, 'init_offset'):  # a deformable convolution
                nn.init.kaiming_normal_(module.weight, mode='fan_out')
        for module in self.modules():
            if hasattr(module, 'init_offset'):
                module.init_offset()  # zero: it starts as a plain convolution
        nn.init.normal_(self.context.qkv.weight, std=self.in_channels**-0.5)
        self.context.reset_tables()

    def forward(self, x: Tensor) -> Tensor:
        check_map(self, x)
        if self.with_cp and torch.is_grad_enabled():
            out = checkpoint_forward(self, self._forward, x)
        else:
            out = self._forward(x)
        if self.stride == 1:
            return out
        # As the strided convolution does, it keeps the last row of an odd map.
        return F.avg_pool2d(out, 2, ceil_mode=True, count_include_pad=False)

    def _forward(self, x: Tensor) -> Tensor:
        context = self.context(x)
        if self.variant == 'attention':
            return context
        if self.variant == 'augmentation':
            return torch.cat([self.conv(x), self.proj(context)], dim=1)
        local = self.local(x)
        if self.variant == 'static':
            return local + context
        return torch.addcmul(local, self.gate(local, context), context)

    @torch.no_grad()
    def attention(self, x: Tensor, queries: Queries) -> PixelWeights:
        """Weights of pixels for others, and of the terms for each other.

        Args:
            x: The layer's input, ``(B, C, H, W)``.
            queries: Row and column of the pixels whose attention is wanted.

        Raises:
            ValueError: If the layer is in training mode, or as in ``forward``.
        """
        check_map(self, x)
        check_eval(self)
        weights = self.context.query_weights(x, queries)
        if self.variant == 'dynamic':
            return PixelWeights(weights, gate=self.gate(self.local(x), self.context(x)))
        if self.variant == 'attention':
            return PixelWeights(weights, own=self.context.own_weight(x))
        return PixelWeights(weights)

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, num_heads={self.context.num_heads}, '
            f'rel_pos_size={self.rel_pos_size}, stride={self.stride}, '
            f'variant={self.variant!r}, position={self.position!r}, '
            f'with_cp={self.with_cp}'
        )


def _multiple_of(number: int, size: float) -> int:
    return max(1, round(size / number)) * number
