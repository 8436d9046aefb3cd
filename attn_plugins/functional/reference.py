"""The specification: each method as the loops that its paper prints.

Nothing here is fast, and nothing else in the package calls it. The functions are
differentiable, so that gradients can be compared as well.
"""

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
