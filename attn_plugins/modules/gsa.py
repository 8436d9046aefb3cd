"""Global self-attention as a layer in the place of a 3x3 convolution.

Source: "Global Self-Attention Networks for Image Recognition", arXiv 2010.03019,
section 3.1, appendix B, Tables 2 and 4. No code of its authors was found.

What the paper leaves open, and what is done here:

* Batch norm stands between columns and rows (Fig. 1). With one of the two there is
  nothing to stand between, so there is none: the norm that a ResNet has after the layer
  follows anyway.
* The axial alternative of Table 2 is described as "similar to Ramachandran et al. but
  in an axial fashion": softmax over a line of ``q . (k + r)``, columns, batch norm,
  rows, with the tables shared by the heads as in the layer itself.
* Initial weights are not given. Here projections keep the variance of their input, and
  tables that of the values, at the reference size.
* Maps of other sizes than the tables: see ``attn_plugins.functional.relpos``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional.batch_norm import normalize
from ..functional.gsa import (
    axial_attention,
    axial_position_attention,
    column_weights,
    content_attention,
    content_weights,
    row_weights,
)
from ..functional.precision import autocast_off_if_fp16, clamp_cast, fp16_to_fp32
from .checks import (
    check_divides,
    check_flags,
    check_map,
    check_positive,
    height_and_width,
)
from .layer import AttentionLayer, Queries
from .tables import resize_tables_on_load


class AxialWeights(NamedTuple):
    """What given pixels attend to in GSA.

    Attributes:
        content: Weights of all pixels by content, ``(B, Q, h, H, W)``; signed.
        columns: At (y, x) the weight of (y, x) in the output of its column at the
            query's row, ``(B, Q, h, H, W)``. What rows sum up are these outputs.
        rows: Weights along the query's row, ``(B, Q, h, W)``.

    None for what the layer leaves out. Weights by position are signed, those along a
    line with ``axial_content`` sum to 1.
    """

    content: Tensor | None
    columns: Tensor | None
    rows: Tensor | None

    @property
    def both(self) -> Tensor:
        """Weights of all pixels by columns, then rows, ``(B, Q, h, H, W)``."""
        return self.columns * self.rows.unsqueeze(-2)


class GlobalSelfAttention(AttentionLayer):
    """GSA: attention by content to all pixels, by position along columns and rows.

    It takes the place of a 3x3 convolution of as many channels and, like it, wants a
    norm after it. Queries, keys and values are as wide as the map and there is no
    output projection. Of multiply-accumulates the projections take 3 N C^2, position
    2 N C (H + W) and content 2 N C^2 / h.

    Args:
        in_channels: Channels of the map.
        num_heads: Heads; they share the tables of relative positions.
        rel_pos_size: Height and width of the map that the tables are laid out for, or
            one number for both. Smaller maps take the middle of a table, larger ones
            stretch it. Unused with ``max_shift``.
        content: Whether to attend by content. Without it there are no keys.
        columns: Whether to attend along columns.
        rows: Whether to attend along rows, after the columns.
        axial_content: Whether content enters the attention along columns and rows, in
            one softmax with the position, rather than attention to all pixels: the
            alternative of Table 2.
        max_shift: Largest offset L that positions attend to, in pixels of the map; None
            for all. The tables then have ``2 * max_shift + 1`` rows at any map size.
        stride: 1, or 2 for average pooling of the output by 2; a last odd row or column
            is averaged over what there is.
        norm_layer: Makes the norm between columns and rows from a channel count.

    Raises:
        ValueError: If a size is not positive, the heads do not divide the channels,
            nothing is left to attend to, options contradict each other, or the input's
            channels are not ``in_channels``.

    Example:
        >>> layer = GlobalSelfAttention(64, rel_pos_size=56, stride=2)
        >>> layer(torch.rand(2, 64, 33, 47)).shape
        torch.Size([2, 64, 17, 24])
    """

    attention_kind = 'axes'
    _abbr_ = 'global_self_attention'

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        *,
        rel_pos_size: int | Sequence[int],
        content: bool = True,
        columns: bool = True,
        rows: bool = True,
        axial_content: bool = False,
        max_shift: int | None = None,
        stride: int = 1,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, num_heads=num_heads)
        check_divides(num_heads=num_heads, in_channels=in_channels)
        check_flags(
            content=content, columns=columns, rows=rows, axial_content=axial_content
        )
        height, width = height_and_width(rel_pos_size=rel_pos_size)
        if max_shift is not None:
            check_positive(max_shift=max_shift)
            height = width = max_shift + 1
        if not (content or columns or rows):
            raise ValueError(
                'content, columns and rows are all False: choose at least one'
            )
        if axial_content and not (content and (columns or rows)):
            raise ValueError(
                'axial_content=True needs content=True and columns or rows, got '
                f'content={content}, columns={columns}, rows={rows}'
            )
        if stride not in (1, 2):
            raise ValueError(f'stride must be 1 or 2, got {stride!r}')
        self.in_channels = in_channels
        self.num_heads = num_heads
        self.content = content
        self.axial_content = axial_content
        self.max_shift = max_shift
        self.stride = stride
        head_width = in_channels // num_heads
        num_projections = 3 if content else 2  # queries, values, keys
        self.qvk = nn.Conv2d(in_channels, num_projections * in_channels, 1, bias=False)
        self.rel_h = self.rel_w = self.norm = None
        if columns:
            self.rel_h = nn.Parameter(torch.empty(2 * height - 1, head_width))
        if rows:
            self.rel_w = nn.Parameter(torch.empty(2 * width - 1, head_width))
        if columns and rows:
            self.norm = norm_layer(in_channels)
        tables = [name for name, on in (('rel_h', columns), ('rel_w', rows)) if on]
        if max_shift is None:
            # Positional weights are summed, those of the alternative are a softmax.
            resize_tables_on_load(self, tables, keep_sum=not axial_content)
        else:
            resize_tables_on_load(self, fixed=tables)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights under which no sum over channels or positions grows."""
        nn.init.normal_(self.qvk.weight, std=self.in_channels**-0.5)
        for table in (self.rel_h, self.rel_w):
            if table is not None:
                positions, head_width = (len(table) + 1) // 2, table.shape[1]
                nn.init.normal_(table, std=(positions * head_width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        check_map(self, x)
        q, v, k = self._heads(x)
        # What is attended to counts by a product, so that it has the square of the
        # map's scale, before the norm between columns and rows at least.
        with autocast_off_if_fp16(q):
            out = self._attend(x.shape[0], *fp16_to_fp32(q, v, k))
        return clamp_cast(out, q.dtype)

    @torch.no_grad()
    def attention(self, x: Tensor, queries: Queries) -> AxialWeights:
        """Weights of pixels for others: by content, along columns and along rows.

        Args:
            x: The layer's input, ``(B, C, H, W)``.
            queries: Row and column of the pixels whose attention is wanted.
        """
        check_map(self, x)
        q, _, k = (
            t
            if t is None
            else t.unflatten(2, (x.shape[0], self.num_heads)).permute(2, 3, 4, 0, 1)
            for t in fp16_to_fp32(*self._heads(x))
        )  # (B, h, D, H, W)
        content = columns = rows = None
        if self.content and not self.axial_content:
            content, k = content_weights(q, k, queries), None
        options = dict(max_shift=self.max_shift)
        if self.rel_h is not None:
            columns = column_weights(q, k, self.rel_h, queries, **options)
        if self.rel_w is not None:
            rows = row_weights(q, k, self.rel_w, queries, **options)
        return AxialWeights(content, columns, rows)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, values and (with content) keys, ``(H, W, B * h, D)`` each.

        They are tokens of the columns as well as of the whole map: both are views, and
        with a batch of one the pixels are a view of the input.
        """
        B, C, H, W = x.shape
        pixels = x.permute(2, 3, 0, 1).reshape(H * W * B, C)
        shape = (H, W, B * self.num_heads, C // self.num_heads)
        tokens = [
            F.linear(pixels, weight).view(shape)
            for weight in self.qvk.weight.flatten(1).split(C)
        ]
        return tuple(tokens) if self.content else (*tokens, None)

    def _attend(self, B: int, q: Tensor, v: Tensor, k: Tensor | None) -> Tensor:
        """Attends to all pixels and along the axes: ``(H, W, B * h, D)`` to maps."""
        H, W, _, D = q.shape
        terms = []  # (B, h, D, H, W) each
        if self.content and not self.axial_content:
            content = content_attention(*(t.flatten(0, 1) for t in (q, k, v)))
            terms.append(content.view(B, self.num_heads, D, H, W))
            k = None
        if self.rel_h is not None or self.rel_w is not None:
            terms.append(self._attend_axially(B, q, v, k))
        out = sum(terms[1:], start=terms[0]).flatten(1, 2).contiguous()
        if self.stride == 2:
            out = F.avg_pool2d(out, 2, ceil_mode=True, count_include_pad=False)
        return out

    def _attend_axially(self, B: int, q: Tensor, v: Tensor, k: Tensor | None) -> Tensor:
        """Attends along columns, then rows: ``(H, W, B * h, D)`` to a view of maps."""
        H, W, _, D = q.shape
        if self.rel_h is not None:
            out = self._attend_along(
                self.rel_h, *(t if t is None else t.flatten(1, 2) for t in (q, v, k))
            )
            out = out.view(W, B, self.num_heads, D, H)
            if self.rel_w is None:
                return out.permute(1, 2, 3, 4, 0)
            # The columns' output is what the rows take for values.
            v = self._normalize(out).flatten(1, 2).permute(3, 0, 1, 2)
        rows = (
            t if t is None else t.permute(1, 2, 0, 3).flatten(1, 2) for t in (q, v, k)
        )
        out = self._attend_along(self.rel_w, *rows)
        return out.view(B, self.num_heads, H, D, W).transpose(2, 3)

    def _attend_along(
        self, table: Tensor, q: Tensor, v: Tensor, k: Tensor | None
    ) -> Tensor:
        table = table.to(torch.promote_types(table.dtype, q.dtype))
        if k is not None:
            return axial_attention(q, k, v, table, max_shift=self.max_shift)
        return axial_position_attention(q, v, table, max_shift=self.max_shift)

    def _normalize(self, x: Tensor) -> Tensor:
        """Applies the norm to ``(W, B, h, D, H)``."""
        channels = x.flatten(2, 3)
        if isinstance(self.norm, _BatchNorm):
            # Its statistics are over all but channels: columns can be images.
            out = normalize(self.norm, channels.flatten(0, 1).unsqueeze(-1))
        else:
            out = self.norm(channels.permute(1, 2, 3, 0)).permute(3, 0, 1, 2)
        return out.reshape(x.shape)

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, num_heads={self.num_heads}, '
            f'content={self.content}, columns={self.rel_h is not None}, '
            f'rows={self.rel_w is not None}, axial_content={self.axial_content}, '
            f'max_shift={self.max_shift}, stride={self.stride}'
        )
