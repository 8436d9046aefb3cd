"""Attention maps of a layer, computed from its input with the layer's own weights.

Of attention that is N x N, only the row of one pixel, or the diagonal, is ever computed
(the ImageNet form of LESA has an N x N similarity in any case).

All functions work on the first image of the input and on layers in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.external import fold_projections, normalize_logits, slot_attention
from ..functional.gsa import position_keys
from ..modules import (
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
    TokenExternalAttention,
)
from ..modules.lesa import ContextTerm2d, FlatContextTerm2d
from .recording import Recording

Point = tuple[float, float]  # x to the right and y down, 0 to 1


class AttentionMap(NamedTuple):
    """A map to be drawn over the image.

    Attributes:
        label: What it shows.
        values: ``(H, W)``; not a number where the map says nothing.
        signed: Whether values are of both signs, around zero.
        limits: Range of the colours, where the values' own would mislead.
        point: The pixel whose map it is, as a point.
    """

    label: str
    values: np.ndarray
    signed: bool = False
    limits: tuple[float, float] | None = None
    point: Point | None = None


class Attention(NamedTuple):
    """All maps of one layer.

    Attributes:
        name: Name of the layer in its model.
        kind: Its class.
        notes: Lines that say what the maps are.
        maps: The maps.
    """

    name: str
    kind: str
    notes: list[str]
    maps: list[AttentionMap]


def cell(point: Point, size: Sequence[int]) -> tuple[int, int]:
    """Returns row and column of a point on a map of a size ``(H, W)``.

    Raises:
        ValueError: If the point is not inside.
    """
    x, y = point
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f'a point must have x and y in [0, 1], got ({x:g}, {y:g})')
    height, width = size
    return min(int(y * height), height - 1), min(int(x * width), width - 1)


def _check_eval(layer: nn.Module) -> None:
    if layer.training:
        raise ValueError(
            f'{type(layer).__name__} is in training mode, in which its batch norms '
            'would see the picture: call eval() on the model first'
        )


@torch.no_grad()
def slot_maps(layer: ExternalAttention2d, x: Tensor) -> Tensor:
    """Attention to each memory slot (EA, arXiv 2105.02358, Fig. 4).

    Args:
        layer: The layer, folded or not: the numbers are the same.
        x: Its input, ``(B, C, H, W)``.

    Returns:
        ``(S, H, W)``.
    """
    value = layer.key.weight if layer.value is None else layer.value.weight.T
    key, _, logit_bias = fold_projections(
        layer.query.weight,
        layer.query.bias,
        layer.key.weight,
        value,
        layer.out.weight,
        normalization=layer.normalization,
    )
    attn = slot_attention(
        x[0].flatten(1),
        key,
        logit_bias=logit_bias,
        normalization=layer.normalization,
        eps=layer.eps,
    )
    return attn.unflatten(-1, x.shape[2:])


@torch.no_grad()
def head_slot_maps(
    layer: MultiHeadExternalAttention, x: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Attention to each memory slot in each head (Fig. 5).

    Args:
        layer: The layer.
        x: Its input, ``(B, N, C)``.
        grid: Rows and columns of the tokens; one token more is a class token, the
            first, which has no place in the map.

    Returns:
        ``(h, S, H, W)``.

    Raises:
        ValueError: If the tokens do not fit the grid.
    """
    count = _cells(x, grid)
    heads = layer.query(x[0]).unflatten(-1, (layer.num_heads, -1))  # (N, h, D)
    attn = slot_attention(
        heads.permute(1, 2, 0),
        layer.key.weight,
        logit_bias=layer.key.bias,
        normalization=layer.normalization,
        eps=layer.eps,
    )
    return attn[..., -count:].unflatten(-1, grid)


@torch.no_grad()
def token_slot_maps(
    layer: TokenExternalAttention, x: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Attention to each memory slot in the tokens-to-token stage.

    Args:
        layer: The layer.
        x: Its input, ``(B, N, C)``.
        grid: As in :func:`head_slot_maps`.

    Returns:
        ``(S, H, W)``.

    Raises:
        ValueError: If the tokens do not fit the grid.
    """
    count = _cells(x, grid)
    attn = normalize_logits(
        layer.key(layer.query(x[0])).mT,
        normalization=layer.normalization,
        eps=layer.eps,
    )
    return attn[:, -count:].unflatten(-1, grid)


def _cells(x: Tensor, grid: tuple[int, int]) -> int:
    count = grid[0] * grid[1]
    if x.shape[1] not in (count, count + 1):
        raise ValueError(
            f'grid must have as many cells as there are tokens, {x.shape[1]} (or one '
            f'less, for a class token), got {grid[0]} x {grid[1]}'
        )
    return count


def token_grid(tokens: int, image_size: Sequence[int]) -> tuple[int, int]:
    """Finds the rows and columns that square patches of an image give.

    Args:
        tokens: Number of tokens, with or without one class token.
        image_size: Height and width of the image.

    Raises:
        ValueError: If no patch size gives as many.
    """
    height, width = image_size
    for count in (tokens, tokens - 1):
        for patch in range(1, max(height, width) + 1):
            # Patches are cut off or padded at the far sides.
            for round_up in (0, patch - 1):
                rows, columns = (
                    (height + round_up) // patch,
                    (width + round_up) // patch,
                )
                if count and rows * columns == count:
                    return rows, columns
    raise ValueError(
        f'{tokens} tokens are no grid of square patches of an image of {height} x '
        f'{width} pixels: name its rows and columns'
    )


def most_active(maps: Tensor, count: int) -> list[int]:
    """Lists the slots with the largest share of all attention, the largest first.

    Args:
        maps: ``(..., S, H, W)``.
        count: How many.
    """
    share = maps.movedim(-3, 0).flatten(1).mean(1)
    return share.topk(min(count, len(share))).indices.tolist()


@torch.no_grad()
def point_attention(layer: LESA2d | SelfAttention2d, x: Tensor, point: Point) -> Tensor:
    """Attention of one pixel to all: one row of the similarity.

    Args:
        layer: The layer, in eval mode.
        x: Its input, ``(B, C, H, W)``.
        point: The pixel.

    Returns:
        ``(h, H, W)``; each head's sums to 1.

    Raises:
        ValueError: If the layer is in training mode.
    """
    _check_eval(layer)
    row, column = cell(point, x.shape[2:])
    x = x[:1]
    if isinstance(layer, SelfAttention2d):
        q, k = _self_attention_heads(layer, x)
        here = q[:, row * x.shape[3] + column]
        logits = torch.einsum('hd,hnd->hn', here, k).float()
        if layer.normalization == 'double':
            logits = logits - _log_sum_exp_over_queries(q, k)
        return logits.softmax(-1).unflatten(-1, x.shape[2:])
    context = layer.context
    logits = (
        _flat_row(context, x, row, column)
        if isinstance(context, FlatContextTerm2d)
        else _row_2d(context, x, row, column)
    )
    return logits.flatten(1).float().softmax(-1).unflatten(-1, x.shape[2:])


def _row_2d(context: ContextTerm2d, x: Tensor, row: int, column: int) -> Tensor:
    q, k, _ = context.heads(x)
    height, width = q.shape[3:]
    k, rel_h, rel_w = context.scaled(q, k)
    here = q[0, :, :, row, column]  # (h, D)
    content = torch.einsum('hd,hdyx->hyx', here, k[0])
    # Row `o + H - 1` of a table is that of a key o positions after its query.
    vertical = rel_h[:, height - 1 - row : 2 * height - 1 - row]
    horizontal = rel_w[:, width - 1 - column : 2 * width - 1 - column]
    vertical = torch.einsum('hd,hyd->hy', here, vertical)
    horizontal = torch.einsum('hd,hxd->hx', here, horizontal)
    return content + vertical.unsqueeze(2) + horizontal.unsqueeze(1)


def _flat_row(context: FlatContextTerm2d, x: Tensor, row: int, column: int) -> Tensor:
    """One query's row of the three terms of ``functional.lesa.flat_similarities``."""
    q, k, _ = context.heads(x)
    height, width = q.shape[3:]
    size, channels = context.rel_pos_size, q.shape[2]
    rows = torch.arange(height, device=x.device).unsqueeze(1)
    columns = torch.arange(width, device=x.device)
    offsets = (row - rows) * size + column - columns + size**2 - 1  # of i - j
    here = q[0, :, :, row, column]
    of_query, of_key = context.rel[: 2 * channels].split(channels)
    terms = torch.stack(
        [
            torch.einsum('hd,hdyx->hyx', here, k[0]),
            torch.einsum('hd,dyx->hyx', here, of_query[:, offsets]),
            # That of j - i is as far from the middle, on the other side.
            torch.einsum('hdyx,dyx->hyx', k[0], of_key[:, 2 * (size**2 - 1) - offsets]),
        ]
    )
    # In eval mode the norm is the same for all entries of a channel.
    terms = context.similarity_norm(terms.flatten(0, 1).unsqueeze(0))[0]
    return terms.unflatten(0, (3, -1)).sum(0)


def _self_attention_heads(layer: SelfAttention2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scaled queries, and keys, ``(h, N, D)`` each."""
    q, k, _ = (
        t.unflatten(-1, (layer.num_heads, -1)).transpose(0, 1)
        for t in layer.qkv(x[0].flatten(1).mT).chunk(3, dim=-1)
    )
    return q * q.shape[-1] ** -0.5, k


def _log_sum_exp_over_queries(q: Tensor, k: Tensor, block: int = 1024) -> Tensor:
    """The normaliser of every key in double normalisation, ``(h, N)``."""
    parts = [(part @ q.mT).float().logsumexp(-1) for part in k.split(block, dim=1)]
    return torch.cat(parts, dim=-1)


@torch.no_grad()
def own_weights(layer: LESA2d | SelfAttention2d, x: Tensor) -> Tensor:
    """Weight of each pixel for itself: the diagonal of the attention.

    Args:
        layer: The layer, in eval mode.
        x: Its input, ``(B, C, H, W)``.

    Returns:
        ``(h, H, W)``.

    Raises:
        ValueError: If the layer is in training mode.
    """
    _check_eval(layer)
    if isinstance(layer, LESA2d):
        return layer.context.own_weight(x[:1])[0]
    q, k = _self_attention_heads(layer, x)
    bias = q.new_zeros(k.shape[:2])
    if layer.normalization == 'double':
        bias = _log_sum_exp_over_queries(q, k)
    own = (q * k).sum(-1) - bias
    blocks = q.split(1024, dim=1)
    totals = [(part @ k.mT - bias.unsqueeze(1)).logsumexp(-1) for part in blocks]
    return (own - torch.cat(totals, dim=-1)).exp().unflatten(-1, x.shape[2:])


class _GlobalHeads(NamedTuple):
    """Queries, values and (with content) keys of GSA, ``(h, D, H, W)`` each."""

    q: Tensor
    v: Tensor
    k: Tensor | None


def _global_heads(layer: GlobalSelfAttention, x: Tensor) -> _GlobalHeads:
    maps = F.conv2d(x[:1], layer.qvk.weight)[0].split(layer.in_channels)
    q, v, *k = (t.unflatten(0, (layer.num_heads, -1)) for t in maps)
    return _GlobalHeads(q, v, k[0] if k else None)


@torch.no_grad()
def content_weights(layer: GlobalSelfAttention, x: Tensor, point: Point) -> Tensor:
    """Weights of all pixels in GSA's content attention of one (arXiv 2010.03019).

    The output at the point is ``sum_j (sum_d q_d softmax(k)_jd) v_j``: keys are
    normalised over the pixels, queries are not, so that weights may be negative.

    Args:
        layer: The layer, with ``content`` and without ``axial_content``.
        x: Its input, ``(B, C, H, W)``.
        point: The pixel.

    Returns:
        ``(h, H, W)``.
    """
    q, _, k = _global_heads(layer, x)
    row, column = cell(point, x.shape[2:])
    weights = k.flatten(2).softmax(-1).view_as(k)  # over pixels
    return torch.einsum('hd,hdyx->hyx', q[:, :, row, column], weights)


@torch.no_grad()
def axial_weights(
    layer: GlobalSelfAttention, x: Tensor, point: Point
) -> tuple[Tensor | None, Tensor | None]:
    """Weights along columns and along the row of a point in GSA's positional attention.

    What the row sums up are the outputs of the columns, one for each pixel of the row.
    Weights are signed, unless ``axial_content`` takes a softmax of them.

    Args:
        layer: The layer, with ``columns`` or ``rows``.
        x: Its input, ``(B, C, H, W)``.
        point: The pixel.

    Returns:
        Weights ``(h, H, W)``: at (y, x) that of (y, x) in the output of its column at
        the point's row; and weights ``(h, W)`` along that row. None for an axis that
        the layer leaves out.
    """
    q, _, k = _global_heads(layer, x)
    height, width = x.shape[2:]
    row, column = cell(point, x.shape[2:])
    shift = layer.max_shift
    options = dict(max_shift=shift, keep_sum=not layer.axial_content)
    of_columns = of_row = None
    if layer.rel_h is not None:
        here = q[:, :, row]  # (h, D, W)
        keys = position_keys(layer.rel_h, height, **options)[row]  # (D, H)
        of_columns = torch.einsum('hdx,dy->hyx', here, keys)
        if layer.axial_content:
            of_columns = of_columns + torch.einsum('hdx,hdyx->hyx', here, k)
            of_columns = _without_far(of_columns.mT, row, shift).softmax(-1).mT
    if layer.rel_w is not None:
        here = q[:, :, row, column]  # (h, D)
        keys = position_keys(layer.rel_w, width, **options)[column]  # (D, W)
        of_row = torch.einsum('hd,dx->hx', here, keys)
        if layer.axial_content:
            of_row = of_row + torch.einsum('hd,hdx->hx', here, k[:, :, row])
            of_row = _without_far(of_row, column, shift).softmax(-1)
    return of_columns, of_row


def _without_far(logits: Tensor, place: int, shift: int | None) -> Tensor:
    if shift is None:
        return logits
    positions = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill((positions - place).abs() > shift, -torch.inf)


def describe(
    recording: Recording,
    points: Sequence[Point] = ((0.5, 0.5),),
    *,
    slots: Sequence[int] | None = None,
    num_slots: int = 7,
    max_heads: int = 8,
    grid: tuple[int, int] | None = None,
    image_size: Sequence[int] | None = None,
    batch: int = 1,
) -> Attention:
    """Makes all maps of a recorded layer.

    Args:
        recording: What the layer saw.
        points: Pixels whose attention is shown, where it is of pixels to pixels.
        slots: Memory slots that are shown; None for the most active.
        num_slots: How many of these; of multi-head attention, two at most.
        max_heads: Heads that are shown one by one beside their mean, for one point.
        grid: Rows and columns of tokens; None to infer them from ``image_size``.
        image_size: Height and width of what the backbone got.
        batch: Images that the backbone got.

    Raises:
        ValueError: If a slot does not exist, a point lies outside, or a grid cannot be
            inferred or does not fit.
    """
    name, layer, x = recording.name, recording.layer, recording.input
    notes = [f'map {x.shape[2]} x {x.shape[3]}'] if x.ndim == 4 else []
    if recording.calls > 1:
        notes[:0] = [f'the last of {recording.calls} calls']
    if isinstance(layer, ExternalAttention2d):
        more, maps = _external(slot_maps(layer, x), slots, num_slots)
    elif isinstance(layer, MultiHeadExternalAttention | TokenExternalAttention):
        if grid is None:
            grid = _inferred_grid(recording, image_size, batch)
        notes.append(f'grid {grid[0]} x {grid[1]}')
        if isinstance(layer, TokenExternalAttention):
            attn = token_slot_maps(layer, x, grid)
            more, maps = _external(attn, slots, num_slots)
        else:
            more, maps = _multi_head(layer, x, grid, slots, num_slots)
    elif isinstance(layer, LESA2d):
        more, maps = _lesa(recording, points, max_heads)
    elif isinstance(layer, GlobalSelfAttention):
        more, maps = _global(layer, x, points, max_heads)
    else:
        more = [f'heads: {layer.num_heads}', 'weights of a point sum to 1']
        maps = _of_points(layer, x, points, max_heads)
        maps.append(_own_map(layer, x))
    return Attention(name, _class_name(layer), [*notes, *more], maps)


def _class_name(layer: nn.Module) -> str:
    return type(layer).__name__


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _external(
    attn: Tensor, slots: Sequence[int] | None, num_slots: int
) -> tuple[list[str], list[AttentionMap]]:
    chosen = _chosen_slots(attn, slots, num_slots)
    share = attn.mean((1, 2)) / attn.mean((1, 2)).sum()
    maps = [
        AttentionMap(f'slot {slot}: {100 * share[slot]:.1f} %', _array(attn[slot]))
        for slot in chosen
    ]
    which = 'chosen' if slots else 'most active'
    notes = [
        f'{len(chosen)} {which} of {len(attn)} slots',
        f'% is the share of all attention, {100 / len(attn):.1f} % on average',
    ]
    return notes, maps


def _multi_head(
    layer: MultiHeadExternalAttention,
    x: Tensor,
    grid: tuple[int, int],
    slots: Sequence[int] | None,
    num_slots: int,
) -> tuple[list[str], list[AttentionMap]]:
    attn = head_slot_maps(layer, x, grid)
    chosen = _chosen_slots(attn, slots, min(num_slots, 2))
    maps = [
        AttentionMap(f'slot {slot}, head {head}', _array(attn[head, slot]))
        for slot in chosen
        for head in range(len(attn))
    ]
    which = 'chosen' if slots else 'most active'
    notes = [f'every head, {len(chosen)} {which} of {attn.shape[1]} slots']
    return notes, maps


def _chosen_slots(
    attn: Tensor, slots: Sequence[int] | None, num_slots: int
) -> list[int]:
    if not slots:
        return most_active(attn, num_slots)
    count = attn.shape[-3]
    for slot in slots:
        if not 0 <= slot < count:
            raise ValueError(f'slots must lie in [0, {count}), got {slot}')
    return list(slots)


def _inferred_grid(
    recording: Recording, image_size: Sequence[int] | None, batch: int
) -> tuple[int, int]:
    if image_size is None or recording.batch != batch:
        reason = (
            'the size of the image is not known'
            if image_size is None
            else f'it gets {recording.batch} sets of them for {batch} image(s), '
            'as windows do'
        )
        raise ValueError(
            f'the grid of the {recording.input.shape[1]} tokens of {recording.name} '
            f'cannot be inferred, {reason}: name its rows and columns'
        )
    return token_grid(recording.input.shape[1], image_size)


def _lesa(
    recording: Recording, points: Sequence[Point], max_heads: int
) -> tuple[list[str], list[AttentionMap]]:
    layer, x = recording.layer, recording.input
    notes = [
        f'variant {layer.variant!r}, heads: {layer.context.num_heads}',
        'weights of a point sum to 1',
    ]
    maps = []
    if recording.gate is not None:
        gate = recording.gate[0].float()
        context = 100 * (gate / (1 + gate)).mean()
        label = 'gate w: 0 local, 1 context'
        maps.append(AttentionMap(label, _array(gate.mean(0)), limits=(0.0, 1.0)))
        notes.append(
            f'mean w {gate.mean():.3f}, so local {100 - context:.1f} %, '
            f'context {context:.1f} %'
        )
    maps += _of_points(layer, x, points, max_heads)
    if layer.variant == 'attention':
        maps.append(_own_map(layer, x))
    return notes, maps


def _own_map(layer: nn.Module, x: Tensor) -> AttentionMap:
    own = own_weights(layer, x)
    label = f'weight for itself, mean {own.mean():.3g}'
    return AttentionMap(label, _array(own.mean(0)))


def _point_names(points: Sequence[Point]) -> list[str]:
    if len(points) == 1:
        return ['point']
    return [f'point {number}' for number in range(1, len(points) + 1)]


def _of_points(
    layer: nn.Module, x: Tensor, points: Sequence[Point], max_heads: int
) -> list[AttentionMap]:
    maps = []
    for name, point in zip(_point_names(points), points, strict=True):
        weights = point_attention(layer, x, point)
        label = f'{name} attends, mean of heads'
        maps.append(AttentionMap(label, _array(weights.mean(0)), point=point))
        if len(points) == 1 and len(weights) > 1:
            maps += [
                AttentionMap(f'head {head}', _array(weights[head]), point=point)
                for head in range(min(len(weights), max_heads))
            ]
    return maps


def _global(
    layer: GlobalSelfAttention,
    x: Tensor,
    points: Sequence[Point],
    max_heads: int,
) -> tuple[list[str], list[AttentionMap]]:
    notes = [f'heads: {layer.num_heads}', 'weights of a point, signed']
    if layer.axial_content:
        notes[1] = 'weights of a point, those of a line sum to 1'
    if layer.norm is not None:
        notes.append("'columns, then row' leaves out the batch norm between them")
    maps = []
    for name, point in zip(_point_names(points), points, strict=True):
        if layer.content and not layer.axial_content:
            weights = content_weights(layer, x, point)
            label = f'{name}: content, mean of heads'
            maps.append(AttentionMap(label, _array(weights.mean(0)), True, None, point))
            if len(points) == 1:
                maps += [
                    AttentionMap(
                        f'content, head {head}',
                        _array(weights[head]),
                        True,
                        None,
                        point,
                    )
                    for head in range(min(len(weights), max_heads))
                ]
        maps += _axial_maps(layer, x, name, point)
    return notes, maps


def _axial_maps(
    layer: GlobalSelfAttention, x: Tensor, name: str, point: Point
) -> list[AttentionMap]:
    of_columns, of_row = axial_weights(layer, x, point)
    row, column = cell(point, x.shape[2:])
    signed = not layer.axial_content
    maps = []
    if of_columns is not None:
        line = torch.full(x.shape[2:], torch.nan)
        line[:, column] = of_columns[:, :, column].mean(0).float().cpu()
        maps.append((f'{name}: column', line))
    if of_row is not None:
        line = torch.full(x.shape[2:], torch.nan)
        line[row] = of_row.mean(0).float().cpu()
        maps.append((f'{name}: row', line))
    if of_columns is not None and of_row is not None:
        both = (of_columns * of_row.unsqueeze(1)).mean(0)
        maps.append((f'{name}: columns, then row', both))
    return [
        AttentionMap(label, _array(values), signed, point=point)
        for label, values in maps
    ]
