"""External attention: attention of pixels to a small learned memory.

Source: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers
for Visual Tasks", arXiv 2105.02358, eq. 7 to 11 and Algorithm 1; the output projection
is EANet's. Feature maps stay channel-first, ``(..., C, N)``: none is transposed.

Two facts make it cheaper than it is printed:

* Between the query projection W and M_k there is nothing non-linear, nor between M_v
  and the output projection W_o. So ``M_k W`` and ``W_o M_v``, each S x C, can be
  multiplied first and applied to the N pixels afterwards: `order='folded'`. Autograd
  goes through the two small products, so training folds as well.
* Double normalisation (softmax over pixels, then L1 norm over slots) is one softmax
  over slots of the logits less their log-sum-exp over pixels, which cannot divide 0
  by 0.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from .exporting import is_exporting

Normalization = Literal['double', 'softmax']
Order = Literal['auto', 'folded', 'plain']

ORDERS = ('auto', 'folded', 'plain')


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        expected = ', '.join(repr(choice) for choice in choices)
        raise ValueError(f'{name} must be one of {expected}, got {value!r}')


def check_normalization(normalization: str, eps: float) -> None:
    """Raises ``ValueError`` unless :func:`normalize_logits` takes these."""
    check_choice('normalization', normalization, ('double', 'softmax'))
    is_number = isinstance(eps, (int, float)) and 0 <= eps < math.inf
    if not is_number or (eps and normalization != 'double'):
        raise ValueError(
            "eps must be >= 0, and 0 unless normalization='double', "
            f'got eps={eps!r} with normalization={normalization!r}'
        )


def normalize_logits(
    logits: Tensor,
    *,
    normalization: Normalization = 'double',
    eps: float = 0.0,
    slot_dim: int = -2,
    pixel_dim: int = -1,
) -> Tensor:
    """Turns logits into attention to the slots (eq. 9 to 11).

    Both reductions run in float32 or better whatever comes in, under autocast too: in
    half precision their sums over thousands of pixels overflow or round away.

    Args:
        logits: ``(..., S, N)``, or as the dimensions say.
        normalization: 'double' for softmax over pixels then L1 norm over slots,
            'softmax' for softmax over slots, which is what self-attention does over its
            keys.
        eps: Added to the L1 norm: 0 as in eq. 11, 1e-9 as in the released weights'
            code, where pixels far below every slot's maximum get less than weight 1.
            Only double normalisation has it.
        slot_dim: Where the S slots are.
        pixel_dim: Where the N pixels are.

    Returns:
        Attention of the same shape and type; with ``eps=0`` it sums to 1 over slots.

    Raises:
        ValueError: If ``normalization`` is unknown, or ``eps`` is negative or given for
            'softmax'.
    """
    check_normalization(normalization, eps)
    dtype = logits.dtype
    # One name for all: what is no longer needed makes room for what comes next.
    logits = logits.to(torch.promote_types(dtype, torch.float32))
    if normalization == 'double' and eps:
        attn = logits.softmax(dim=pixel_dim)
        attn = attn / (eps + attn.sum(dim=slot_dim, keepdim=True))
    else:
        if normalization == 'double':
            logits = logits.log_softmax(dim=pixel_dim)
        attn = logits.softmax(dim=slot_dim)
    return attn.to(dtype)


def slot_attention(
    x: Tensor,
    key: Tensor,
    *,
    logit_bias: Tensor | None = None,
    normalization: Normalization = 'double',
    eps: float = 0.0,
) -> Tensor:
    """Attention of every pixel to S memory slots (eq. 7).

    Args:
        x: Features, ``(..., C, N)``.
        key: Memory M_k, ``(S, C)``.
        logit_bias: Added to the logits of each slot, ``(S,)``.
        normalization: As in :func:`normalize_logits`.
        eps: As in :func:`normalize_logits`.

    Returns:
        ``(..., S, N)``; in inference it may be a transposed view.

    Raises:
        ValueError: If shapes do not fit, or as in :func:`normalize_logits`.
    """
    if key.ndim != 2:
        raise ValueError(f'key must be (S, C), got {tuple(key.shape)}')
    if x.ndim < 2 or x.shape[-2] != key.shape[1]:
        raise ValueError(
            f'x must be (..., {key.shape[1]}, N) to fit key {tuple(key.shape)}, '
            f'got {tuple(x.shape)}'
        )
    if logit_bias is not None:
        _check_shape('logit_bias', logit_bias, (key.shape[0],))
    pixels_first = _takes_pixels_first(x, key)
    # No name for the logits here, which would keep them while they are normalised.
    attn = normalize_logits(
        _logits(x, key, logit_bias, pixels_first),
        normalization=normalization,
        eps=eps,
        slot_dim=-1 if pixels_first else -2,
        pixel_dim=-2 if pixels_first else -1,
    )
    return attn.mT if pixels_first else attn


def _logits(x: Tensor, key: Tensor, bias: Tensor | None, pixels_first: bool) -> Tensor:
    """``(..., N, S)`` with the pixels first, else ``(..., S, N)``."""
    if pixels_first:
        logits = x.mT @ _in_batch(key.T, x)
        return logits if bias is None else logits + bias
    logits = _in_batch(key, x) @ x
    return logits if bias is None else logits + bias.unsqueeze(-1)


def _takes_pixels_first(x: Tensor, key: Tensor) -> bool:
    """Tells whether ``(N, S)`` is the faster layout of the logits.

    For inference on a CPU it mostly is, in full precision, with more pixels than
    channels, and 32 slots or more; with 8 it takes several times as long. In training
    the gradient of ``x`` would come out transposed, which costs more than is won.
    """
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[-1] > x.shape[-2]
        and key.shape[0] >= 32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
        and not is_exporting()
    )


def _in_batch(weight: Tensor, x: Tensor) -> Tensor:
    """Repeats ``weight``, as a view, for every map of ``x``, ``(..., C, N)``.

    To multiply a batch by one matrix that needs a gradient, torch copies the batch into
    one matrix, and keeps the copy for backward. Exported graphs need none of this.
    """
    if is_exporting():
        return weight
    return weight.expand(*x.shape[:-2], -1, -1)


def external_attention(
    x: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    logit_bias: Tensor | None = None,
    normalization: Normalization = 'double',
    eps: float = 0.0,
) -> Tensor:
    """External attention without projections (eq. 7 and 8).

    Args:
        x: Features, ``(..., C, N)``.
        key: Memory M_k, ``(S, C)``.
        value: Memory M_v, ``(S, D)``.
        logit_bias: Added to the logits of each slot, ``(S,)``.
        normalization: As in :func:`normalize_logits`.
        eps: As in :func:`normalize_logits`.

    Returns:
        Attended features, ``(..., D, N)``.

    Raises:
        ValueError: If shapes do not fit, or as in :func:`normalize_logits`.
    """
    if value.ndim != 2 or value.shape[0] != key.shape[0]:
        raise ValueError(
            f'value must be (S, D) with the S of key {tuple(key.shape)}, '
            f'got {tuple(value.shape)}'
        )
    attn = slot_attention(
        x, key, logit_bias=logit_bias, normalization=normalization, eps=eps
    )
    return _in_batch(value.T, attn) @ attn


def external_attention_block(
    x: Tensor,
    query_weight: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    value: Tensor,
    out_weight: Tensor,
    *,
    normalization: Normalization = 'double',
    eps: float = 0.0,
    order: Order = 'auto',
) -> Tensor:
    """Query projection, external attention, output projection (Algorithm 1, EANet).

    Both orders are the same function of the same parameters. Folding is the cheaper one
    exactly when there are more pixels than slots.

    Args:
        x: Features, ``(..., C, N)``.
        query_weight: W, ``(D, C)``.
        query_bias: b, ``(D,)``, or None.
        key: Memory M_k, ``(S, D)``.
        value: Memory M_v, ``(S, D)``.
        out_weight: W_o, ``(C, D)``.
        normalization: As in :func:`normalize_logits`.
        eps: As in :func:`normalize_logits`.
        order: 'folded' multiplies the weights first, 'plain' follows the paper,
            'auto' takes the cheaper.

    Returns:
        ``(..., C, N)``.

    Raises:
        ValueError: If ``order`` is unknown, or as in :func:`external_attention`.
    """
    check_choice('order', order, ORDERS)
    _check_projections(query_weight, query_bias, key, value, out_weight)
    if x.ndim < 2 or x.shape[-2] != query_weight.shape[1]:
        raise ValueError(
            f'x must be (..., {query_weight.shape[1]}, N) to fit query_weight '
            f'{tuple(query_weight.shape)}, got {tuple(x.shape)}'
        )
    if not folds(order, x, key.shape[0]):
        query = query_weight @ x
        if query_bias is not None:
            query = query + query_bias.unsqueeze(-1)
        out = external_attention(
            query, key, value, normalization=normalization, eps=eps
        )
        return out_weight @ out

    folded_key, folded_value, logit_bias = fold_projections(
        query_weight, query_bias, key, value, out_weight, normalization=normalization
    )
    return external_attention(
        x,
        folded_key,
        folded_value,
        logit_bias=logit_bias,
        normalization=normalization,
        eps=eps,
    )


def folds(order: Order, x: Tensor, num_slots: int) -> bool:
    """Tells whether ``order`` means to fold for features ``(..., C, N)``."""
    if order == 'auto':
        return is_exporting() or x.shape[-1] > num_slots
    return order == 'folded'


def fold_projections(
    query_weight: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    value: Tensor,
    out_weight: Tensor,
    *,
    normalization: Normalization = 'double',
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Multiplies the projections of :func:`external_attention_block` into its memories.

    Under double normalisation a query bias moves all of a slot's logits by the same
    amount, which the softmax over pixels ignores. It stays in the autograd graph, with
    zero gradient: a parameter outside of it stops distributed training.

    Args: as in :func:`external_attention_block`.

    Returns:
        ``M_k W`` and ``(W_o M_v)^T``, ``(S, C)`` each, and the bias of the logits,
        ``(S,)`` or None.

    Raises:
        ValueError: If shapes do not fit.
    """
    _check_projections(query_weight, query_bias, key, value, out_weight)
    folded_key = key @ query_weight
    folded_value = value @ out_weight.T
    if query_bias is None:
        return folded_key, folded_value, None
    if normalization == 'double':
        return folded_key + 0 * query_bias.sum(), folded_value, None
    return folded_key, folded_value, key @ query_bias


def _check_projections(
    query_weight: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    value: Tensor,
    out_weight: Tensor,
) -> None:
    if key.ndim != 2:
        raise ValueError(f'key must be (S, D), got {tuple(key.shape)}')
    slots, width = key.shape
    _check_shape('query_weight', query_weight, (width, None))
    _check_shape('value', value, (slots, width))
    _check_shape('out_weight', out_weight, (None, width))
    if query_bias is not None:
        _check_shape('query_bias', query_bias, (width,))


def _check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raises ``ValueError`` unless the shape is as expected; None is any size."""
    if tensor.ndim != len(expected) or any(
        size is not None and size != found
        for size, found in zip(expected, tensor.shape, strict=True)
    ):
        sizes = ', '.join('*' if size is None else str(size) for size in expected)
        raise ValueError(
            f'{name} must be ({sizes}) to fit key, got {tuple(tensor.shape)}'
        )


def product_moments(value: Tensor, attn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``value.T @ attn`` per channel, without that product.

    They are what batch norm needs after the output projection. With the mean a' and the
    covariance K of the attention over all pixels of the batch, the mean is V a' and the
    variance is v K v for each column v of ``value``: S x S numbers in place of a map.

    Args:
        value: ``(S, C)``.
        attn: ``(B, S, N)``.

    Returns:
        Mean and (biased) variance, ``(C,)`` each, in float32 or better.
    """
    dtype = torch.promote_types(attn.dtype, torch.float32)
    # Autocast would take the products below in half precision again.
    with torch.autocast(attn.device.type, enabled=False):
        slots = attn.to(dtype).transpose(0, 1).flatten(1)  # (S, B * N)
        value = value.to(dtype)
        mean = slots.mean(dim=1)
        # Centred first: the slots' weights differ little from each other, and the
        # difference of two large squares would lose them.
        centred = slots - mean.unsqueeze(1)
        covariance = centred @ centred.T / slots.shape[1]
        var = (value * (covariance @ value)).sum(dim=0)
        return mean @ value, var.clamp_min(0)


def add_attended(
    x: Tensor, attn: Tensor, value: Tensor, *, inplace: bool = False
) -> Tensor:
    """Returns ``x + value.T @ attn``, in one product where the types allow it.

    Args:
        x: ``(B, C, N)``.
        attn: ``(B, S, N)``.
        value: ``(S, C)``.
        inplace: Whether that product may overwrite ``x``. It does without autograd, in
            eager mode, if the map is dense. Forward-mode AD and ``vmap`` refuse it.
    """
    in_autocast = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    if x.dtype != attn.dtype or in_autocast:
        return x + _in_batch(value.T, attn) @ attn
    # A copy: the product is a tenth faster with rows of slots side by side.
    value = value.T.to(attn.dtype).contiguous()
    overwrites = (
        inplace
        and not torch.is_grad_enabled()
        and not (is_exporting() or torch.compiler.is_compiling())
        # Pixels of an expanded map share memory; torch would write there all the same.
        and (x.is_contiguous() or x.mT.is_contiguous())
    )
    # Not `baddbmm_`: torch's flop counter does not know it.
    return torch.baddbmm(
        x,
        value.expand(x.shape[0], -1, -1),
        attn,
        out=x if overwrites else None,
    )
