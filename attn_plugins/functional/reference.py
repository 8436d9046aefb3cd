"""The specification: each method as the loops that its paper prints.

Nothing here is fast, and nothing else in the package calls it. The functions are
differentiable, so that gradients can be compared as well.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def external_attention(
    x: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    normalization: str = 'double',
    eps: float = 0.0,
) -> Tensor:
    """External attention over pixels, one number at a time (EA, eq. 7 to 11).

    Args:
        x: Features, ``(B, N, C)``.
        key: Memory M_k, ``(S, C)``.
        value: Memory M_v, ``(S, D)``.
        normalization: 'double' (eq. 9 to 11) or 'softmax' (over the slots).
        eps: Added to the denominator of eq. 11 (the released code has 1e-9).

    Returns:
        Attended features, ``(B, N, D)``.
    """
    images = []
    for features in x:
        logits = [[torch.dot(pixel, slot) for slot in key] for pixel in features]
        if normalization == 'double':
            attn = _double_normalization(logits, eps)
        else:
            attn = [_softmax(row) for row in logits]
        images.append(
            torch.stack(
                [
                    sum(weight * slot for weight, slot in zip(row, value, strict=True))
                    for row in attn
                ]
            )
        )
    return torch.stack(images)


def _softmax(numbers: list[Tensor]) -> list[Tensor]:
    largest = max(number.detach() for number in numbers)
    powers = [(number - largest).exp() for number in numbers]
    return [power / sum(powers) for power in powers]


def _double_normalization(logits: list[list[Tensor]], eps: float) -> list[list[Tensor]]:
    """Normalises ``logits[pixel][slot]`` over the pixels, then over the slots."""
    by_slot = [_softmax(list(column)) for column in zip(*logits, strict=True)]
    by_pixel = [list(row) for row in zip(*by_slot, strict=True)]
    return [[weight / (eps + sum(row)) for weight in row] for row in by_pixel]


def external_attention_block(
    x: Tensor,
    query_weight: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    value: Tensor,
    out_weight: Tensor,
    *,
    normalization: str = 'double',
    eps: float = 0.0,
) -> Tensor:
    """Algorithm 1 with EANet's output projection, on pixels.

    Args:
        x: Features, ``(B, N, C)``.
        query_weight: ``(D, C)``.
        query_bias: ``(D,)``, or None.
        key: Memory M_k, ``(S, D)``.
        value: Memory M_v, ``(S, D)``.
        out_weight: ``(C, D)``.
        normalization: As in :func:`external_attention`.
        eps: As in :func:`external_attention`.

    Returns:
        ``(B, N, C)``.
    """
    query = x @ query_weight.T
    if query_bias is not None:
        query = query + query_bias
    attended = external_attention(
        query, key, value, normalization=normalization, eps=eps
    )
    return attended @ out_weight.T


def multi_head_external_attention(
    x: Tensor,
    key: Tensor,
    key_bias: Tensor | None,
    value: Tensor,
    value_bias: Tensor | None,
    *,
    num_heads: int,
    normalization: str = 'double',
    eps: float = 0.0,
) -> Tensor:
    """External attention head by head, memories shared (Algorithm 2, eq. 12 to 14).

    Between the query and the output projection, which are plain linear layers.

    Args:
        x: Queries, ``(B, N, C)``; head i has the i-th C / h channels.
        key: Memory M_k, ``(S, C / h)``.
        key_bias: ``(S,)``, or None.
        value: Memory M_v, ``(S, C / h)``.
        value_bias: ``(C / h,)``, or None.
        num_heads: h.
        normalization: As in :func:`external_attention`.
        eps: As in :func:`external_attention`.

    Returns:
        ``(B, N, C)``.
    """
    # A bias of the logits is one more channel: 1 in every pixel.
    if key_bias is not None:
        key = torch.cat([key, key_bias[:, None]], dim=1)
    outputs = []
    for head in x.chunk(num_heads, dim=2):
        if key_bias is not None:
            head = torch.cat([head, torch.ones_like(head[..., :1])], dim=2)
        out = external_attention(head, key, value, normalization=normalization, eps=eps)
        outputs.append(out if value_bias is None else out + value_bias)
    return torch.cat(outputs, dim=2)


def self_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, normalization: str = 'softmax'
) -> Tensor:
    """Self-attention of one head, one number at a time (EA, eq. 1 and 2).

    Args:
        q: ``(B, N, D)``.
        k: ``(B, N, D)``.
        v: ``(B, N, D)``.
        scale: Multiplies the logits.
        normalization: 'softmax' over keys, or 'double': over queries, then L1 over
            keys.

    Returns:
        ``(B, N, D)``.
    """
    images = [
        external_attention(
            scale * queries[None], keys, values, normalization=normalization
        )[0]
        for queries, keys, values in zip(q, k, v, strict=True)
    ]
    return torch.stack(images)


def performer_attention(q: Tensor, k: Tensor, v: Tensor, features: Tensor) -> Tensor:
    """Performer attention as it is printed, one number at a time (arXiv 2009.14794).

    Args:
        q: ``(B, N, D)``.
        k: ``(B, N, D)``.
        v: ``(B, N, V)``.
        features: ``(R, D)``.

    Returns:
        ``(B, N, V)``.
    """

    def weights(token: Tensor) -> list[Tensor]:
        length = torch.dot(token, token)
        return [(torch.dot(feature, token) - length / 2).exp() for feature in features]

    images = []
    for queries, keys, values in zip(q, k, v, strict=True):
        outputs = []
        for query in queries:
            similarities = [
                sum(a * b for a, b in zip(weights(query), weights(key), strict=True))
                for key in keys
            ]
            weighted = zip(similarities, values, strict=True)
            outputs.append(sum(s * value for s, value in weighted) / sum(similarities))
        images.append(torch.stack(outputs))
    return torch.stack(images)


def gsa_content(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Content attention of GSA, pixel by pixel (GSA, appendix B, ``Y^C``).

    Args:
        q: ``(B, h, H, W, D)``.
        k: ``(B, h, H, W, D)``.
        v: ``(B, h, H, W, V)``.

    Returns:
        ``(B, h, H, W, V)``.
    """
    out = torch.zeros_like(v)
    pixels = list(_indices(*q.shape[2:4]))
    for b, n in _indices(*q.shape[:2]):
        context = [torch.zeros_like(v[0, 0, 0, 0]) for _ in range(q.shape[4])]
        for channel in range(q.shape[4]):
            weights = _softmax([k[b, n, x, y, channel] for x, y in pixels])
            for weight, (x, y) in zip(weights, pixels, strict=True):
                context[channel] = context[channel] + weight * v[b, n, x, y]
        for x, y in pixels:
            for channel in range(q.shape[4]):
                out[b, n, x, y] += q[b, n, x, y, channel] * context[channel]
    return out


def gsa_columns(
    q: Tensor, v: Tensor, table: Tensor, *, max_shift: int | None = None
) -> Tensor:
    """Column-only positional attention, pair by pair (GSA, appendix B, ``Y^H``).

    Args:
        q: ``(B, h, H, W, D)``.
        v: ``(B, h, H, W, V)``.
        table: R, ``(2 * R - 1, D)``; the row of offset 0 is in its middle.
        max_shift: L, the largest offset attended to; None for all.

    Returns:
        ``(B, h, H, W, V)``.
    """
    out = torch.zeros_like(v)
    for b, n in _indices(*q.shape[:2]):
        for x, y in _indices(*q.shape[2:4]):
            for i in _neighbours(x, q.shape[2], max_shift):
                similarity = torch.dot(q[b, n, x, y], table[i - x + len(table) // 2])
                out[b, n, x, y] += similarity * v[b, n, i, y]
    return out


def gsa_rows(
    q: Tensor, v: Tensor, table: Tensor, *, max_shift: int | None = None
) -> Tensor:
    """Row-only positional attention: :func:`gsa_columns` of the transposed map."""
    q, v = q.transpose(2, 3), v.transpose(2, 3)
    return gsa_columns(q, v, table, max_shift=max_shift).transpose(2, 3)


def gsa_axial_columns(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, *, max_shift: int | None = None
) -> Tensor:
    """Attention of columns by content and position (GSA, Table 2, the alternative).

    Args: as in :func:`gsa_columns`, and k ``(B, h, H, W, D)``.

    Returns:
        ``(B, h, H, W, V)``.
    """
    out = torch.zeros_like(v)
    for b, n in _indices(*q.shape[:2]):
        for x, y in _indices(*q.shape[2:4]):
            others = list(_neighbours(x, q.shape[2], max_shift))
            weights = _softmax(
                [
                    torch.dot(
                        q[b, n, x, y], k[b, n, i, y] + table[i - x + len(table) // 2]
                    )
                    for i in others
                ]
            )
            for weight, i in zip(weights, others, strict=True):
                out[b, n, x, y] += weight * v[b, n, i, y]
    return out


def gsa_axial_rows(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, *, max_shift: int | None = None
) -> Tensor:
    """:func:`gsa_axial_columns` of the transposed map."""
    q, k, v = (t.transpose(2, 3) for t in (q, k, v))
    return gsa_axial_columns(q, k, v, table, max_shift=max_shift).transpose(2, 3)


def _indices(*sizes: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in sizes))


def _neighbours(x: int, size: int, max_shift: int | None) -> Iterator[int]:
    """Positions that x attends to: ``|i - x| <= L``."""
    return (i for i in range(size) if max_shift is None or abs(i - x) <= max_shift)


def lesa_similarities(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Content and position terms of all pairs of pixels (LESA, eq. 1).

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        rel_h: ``(2 * H - 1, D)``; the row of a key o rows below is ``o + H - 1``.
        rel_w: ``(2 * W - 1, D)``.

    Returns:
        ``(B, 2 * h, N, N)``: content of all heads, then position; queries, then keys.
    """
    height, width = q.shape[3:]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    images = []
    for image_q, image_k in zip(q, k, strict=True):
        content, position = [], []
        for head_q, head_k in zip(image_q, image_k, strict=True):
            for y, x in pixels:
                query = head_q[:, y, x]
                for key_y, key_x in pixels:
                    down, right = key_y - y + height - 1, key_x - x + width - 1
                    content.append(torch.dot(query, head_k[:, key_y, key_x]))
                    position.append(torch.dot(query, rel_h[down] + rel_w[right]))
        images.append(torch.stack(content + position))
    return torch.stack(images).view(len(q), -1, len(pixels), len(pixels))


def lesa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    norm: Callable[[Tensor], Tensor],
) -> Tensor:
    """LESA's binary term, similarities normalised as they are printed.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        v: ``(B, h, V, H, W)``.
        rel_h: As in :func:`lesa_similarities`.
        rel_w: As there.
        norm: Batch norm of ``2 * h`` channels.

    Returns:
        ``(B, h, V, H, W)``.
    """
    content, position = norm(lesa_similarities(q, k, rel_h, rel_w)).chunk(2, dim=1)
    attn = (content + position).softmax(dim=-1)  # over keys
    return torch.einsum('bhij,bhvj->bhvi', attn, v.flatten(3)).view(v.shape)


def lesa_flat_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Tensor,
    size: int,
    norm: Callable[[Tensor], Tensor],
) -> Tensor:
    """LESA's binary term in its form for ImageNet: one table, on q, k and v.

    Args:
        q: ``(B, h, D, H, W)``.
        k: ``(B, h, D, H, W)``.
        v: ``(B, h, V, H, W)``.
        rel: ``(2 * D + V, 2 * R ** 2 - 1)``; the column of pixel i seen from pixel j
            is ``(y_i - y_j) * R + x_i - x_j``, counted from the middle.
        size: R.
        norm: Batch norm of ``3 * h`` channels.

    Returns:
        ``(B, h, V, 2, H, W)``: sums of the values, sums of the offsets.
    """
    height, width = q.shape[3:]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    middle = size**2 - 1
    rel_q, rel_k, rel_v = rel.split([q.shape[2], k.shape[2], v.shape[2]])

    def column(i: tuple[int, int], j: tuple[int, int]) -> int:
        return middle + (i[0] - j[0]) * size + i[1] - j[1]

    images = []
    for image_q, image_k in zip(q, k, strict=True):
        terms = [[], [], []]
        for head_q, head_k in zip(image_q, image_k, strict=True):
            for i in pixels:
                for j in pixels:
                    query, key = head_q[:, i[0], i[1]], head_k[:, j[0], j[1]]
                    terms[0].append(torch.dot(query, key))
                    terms[1].append(torch.dot(query, rel_q[:, column(i, j)]))
                    terms[2].append(torch.dot(key, rel_k[:, column(j, i)]))
        images.append(torch.stack(terms[0] + terms[1] + terms[2]))
    count = len(pixels)
    similarities = torch.stack(images).view(len(q), -1, count, count)
    attn = sum(norm(similarities).chunk(3, dim=1)).softmax(dim=-1)  # over keys
    offsets = torch.stack([rel_v[:, column(i, j)] for i in pixels for j in pixels])
    offsets = offsets.view(count, count, -1)
    out = torch.stack(
        [
            torch.einsum('bhij,bhvj->bhvi', attn, v.flatten(3)),
            torch.einsum('bhij,ijv->bhvi', attn, offsets),
        ],
        dim=3,
    )
    return out.unflatten(-1, (height, width))
