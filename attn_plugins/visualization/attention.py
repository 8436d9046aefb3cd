"""Captions and arranges the maps that an attention layer gives of an input.

All functions work on the first image of the input and on layers in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

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


def on_grid(attn: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lays out the attention of tokens as maps.

    Args:
        attn: ``(..., N)``.
        grid: Rows and columns of the tokens; one token more is a class token, the
            first, which has no place in the map.

    Returns:
        ``(..., H, W)``.

    Raises:
        ValueError: If the tokens do not fit the grid.
    """
    count = grid[0] * grid[1]
    if attn.shape[-1] not in (count, count + 1):
        raise ValueError(
            f'grid must have as many cells as there are tokens, {attn.shape[-1]} (or '
            f'one less, for a class token), got {grid[0]} x {grid[1]}'
        )
    return attn[..., -count:].unflatten(-1, grid)


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
    if layer.attention_kind == 'slots':
        attn = layer.attention(x)[0]
        if x.ndim == 3:
            if grid is None:
                grid = _inferred_grid(recording, image_size, batch)
            notes.append(f'grid {grid[0]} x {grid[1]}')
            attn = on_grid(attn, grid)
        of_slots = _slots if attn.ndim == 3 else _slots_of_heads
        more, maps = of_slots(attn, slots, num_slots)
    else:
        queries = [cell(point, x.shape[2:]) for point in points]
        weights = layer.attention(x, queries)
        if layer.attention_kind == 'pixels':
            more, maps = _pixels(layer, weights, points, max_heads)
        else:
            more, maps = _axes(layer, weights, points, max_heads, x.shape[2:])
    return Attention(name, type(layer).__name__, [*notes, *more], maps)


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _slots(
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


def _slots_of_heads(
    attn: Tensor, slots: Sequence[int] | None, num_slots: int
) -> tuple[list[str], list[AttentionMap]]:
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


def _pixels(
    layer: nn.Module, weights: tuple, points: Sequence[Point], max_heads: int
) -> tuple[list[str], list[AttentionMap]]:
    """Maps of ``attn_plugins.modules.layer.PixelWeights``."""
    heads = f'heads: {weights.queries.shape[2]}'
    variant = getattr(layer, 'variant', None)
    notes = [
        f'variant {variant!r}, {heads}' if variant else heads,
        'weights of a point sum to 1',
    ]
    maps = []
    if weights.gate is not None:
        gate = weights.gate[0].float()
        context = 100 * weights.context_share[0].float().mean()
        label = 'gate w: 0 local, 1 context'
        maps.append(AttentionMap(label, _array(gate.mean(0)), limits=(0.0, 1.0)))
        notes.append(
            f'mean w {gate.mean():.3f}, so local {100 - context:.1f} %, '
            f'context {context:.1f} %'
        )
    names = _point_names(points)
    for name, point, of_point in zip(names, points, weights.queries[0], strict=True):
        label = f'{name} attends, mean of heads'
        maps.append(AttentionMap(label, _array(of_point.mean(0)), point=point))
        if len(points) == 1 and len(of_point) > 1:
            maps += [
                AttentionMap(f'head {head}', _array(values), point=point)
                for head, values in enumerate(of_point[:max_heads])
            ]
    if weights.own is not None:
        own = weights.own[0]
        label = f'weight for itself, mean {own.mean():.3g}'
        maps.append(AttentionMap(label, _array(own.mean(0))))
    return notes, maps


def _point_names(points: Sequence[Point]) -> list[str]:
    if len(points) == 1:
        return ['point']
    return [f'point {number}' for number in range(1, len(points) + 1)]


def _axes(
    layer: nn.Module,
    weights: tuple,
    points: Sequence[Point],
    max_heads: int,
    size: Sequence[int],
) -> tuple[list[str], list[AttentionMap]]:
    """Maps of ``attn_plugins.modules.gsa.AxialWeights``."""
    notes = [f'heads: {layer.num_heads}', 'weights of a point, signed']
    if layer.axial_content:
        notes[1] = 'weights of a point, those of a line sum to 1'
    if layer.norm is not None:
        notes.append("'columns, then row' leaves out the batch norm between them")
    maps = []
    names = _point_names(points)
    for index, (name, point) in enumerate(zip(names, points, strict=True)):
        of_point = []
        if weights.content is not None:
            content = weights.content[0, index]
            of_point.append((f'{name}: content, mean of heads', content.mean(0)))
            if len(points) == 1:
                of_point += [
                    (f'content, head {head}', values)
                    for head, values in enumerate(content[:max_heads])
                ]
        row, column = cell(point, size)
        if weights.columns is not None:
            line = torch.full(size, torch.nan)
            line[:, column] = weights.columns[0, index, :, :, column].mean(0)
            of_point.append((f'{name}: column', line))
        if weights.rows is not None:
            line = torch.full(size, torch.nan)
            line[row] = weights.rows[0, index].mean(0)
            of_point.append((f'{name}: row', line))
        if weights.columns is not None and weights.rows is not None:
            both = weights.both[0, index].mean(0)
            of_point.append((f'{name}: columns, then row', both))
        maps += [
            AttentionMap(
                label, _array(values), signed=not layer.axial_content, point=point
            )
            for label, values in of_point
        ]
    return notes, maps
