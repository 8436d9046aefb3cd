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

from .batch_norm import BatchNorm, scale_and_shift
from .checks import check_choice, check_normalization, check_shape
from .exporting import is_exporting

Normalization = Literal['double', 'softmax']
Order = Literal['auto', 'folded', 'plain']

ORDERS = ('auto', 'folded', 'plain')


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
    dtype = logits.dtype
    # One name for all: what is no longer needed makes room for what comes next.
    logits = logits.to(torch.promote_types(dtype, torch.float32))
    if normalization == 'double' and eps == 0:
        logits = logits.log_softmax(dim=pixel_dim)
    elif normalization == 'double' and 0 < eps < math.inf:
        attn = logits.softmax(dim=pixel_dim)
        return (attn / (eps + attn.sum(dim=slot_dim, keepdim=True))).to(dtype)
    else:
        check_normalization(normalization, eps)
    return logits.softmax(dim=slot_dim).to(dtype)


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
        check_shape('logit_bias', logit_bias, (key.shape[0],), 'key')
    exporting = is_exporting()
    # The faster layout in inference on a CPU, with many pixels and slots. In training
    # the gradient of x would come out transposed, which costs more than is won.
    pixels_first = (
        x.is_cpu
        and x.dtype in (torch.float32, torch.float64)
        and key.shape[0] >= 32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
        and not exporting
        and x.shape[-1] > x.shape[-2]
    )
    if not exporting:
        # A view for every map of x: to multiply a batch by one matrix that needs a
        # gradient, torch would copy the batch, and keep the copy for backward.
        key = key.expand(*x.shape[:-2], -1, -1)
    a, b = (x.mT, key.mT) if pixels_first else (key, x)
    if logit_bias is not None and not pixels_first:
        logit_bias = logit_bias.unsqueeze(-1)
    attn = normalize_logits(
        # Without a name, which would keep the logits while they are normalised.
        a @ b if logit_bias is None else a @ b + logit_bias,
        normalization=normalization,
        eps=eps,
        slot_dim=-1 if pixels_first else -2,
        pixel_dim=-2 if pixels_first else -1,
    )
    return attn.mT if pixels_first else attn


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
    value = value.T if is_exporting() else value.T.expand(*x.shape[:-2], -1, -1)
    return value @ attn


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
    when there are more pixels in the batch than slots.

    Args:
        x: Features, ``(..., C, N)``.
        query_weight: W, ``(D, C)``.
        query_bias: b, ``(D,)``, or None.
        key: Memory M_k, ``(S, D)``.
        value: Memory M_v, ``(S, D)``.
        out_weight: W_o, ``(C, D)``.
        normalization: As in :func:`normalize_logits`.
        eps: As in :func:`normalize_logits`.
        order: 'folded', also 'auto', multiplies the weights first; 'plain' follows the
            paper.

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
    if order == 'plain':
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
    """
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
    check_shape('query_weight', query_weight, (width, None), 'key')
    check_shape('value', value, (slots, width), 'key')
    check_shape('out_weight', out_weight, (None, width), 'key')
    if query_bias is not None:
        check_shape('query_bias', query_bias, (width,), 'key')


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


def eanet_block(
    x: Tensor,
    query_weight: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    value: Tensor,
    out_weight: Tensor,
    norm: BatchNorm,
    *,
    normalization: Normalization = 'double',
    eps: float = 0.0,
    inplace: bool = False,
) -> Tensor:
    """EANet's block in two products, ``relu(x + norm(W_o EA(W x)))`` (EA, Fig. 3).

    Projections, norm and residual are folded into them.

    Args: as in :func:`external_attention_block`, of shapes that are not checked, and
        norm: The norm of C channels; its running statistics move.
        inplace: Whether the output may overwrite ``x``. It does without autograd, in
            eager mode outside of autocast, if the map is dense. Forward-mode AD and
            ``vmap`` refuse it.

    Returns:
        ``(B, C, N)``.

    Raises:
        ValueError: If there is one pixel to take statistics of.
    """
    key, value, logit_bias = fold_projections(
        query_weight, query_bias, key, value, out_weight, normalization=normalization
    )
    attn = slot_attention(
        x, key, logit_bias=logit_bias, normalization=normalization, eps=eps
    )
    moments = product_moments(value, attn) if norm.needs_moments else None
    scale, shift = scale_and_shift(norm, moments, attn[:, 0].numel())
    value = value * scale
    if eps == 0:
        # A pixel's weights sum to 1, so that each slot can carry the shift.
        value = value + shift
    if attn.dtype != x.dtype or _in_autocast(x):
        out = x + value.T.expand(x.shape[0], -1, -1) @ attn
    else:
        # Not `baddbmm_`, which torch's flop counter does not know. Rows of slots side
        # by side make it a tenth faster.
        value = value.T.to(attn.dtype).contiguous()
        overwritten = x if inplace and _can_overwrite(x) else None
        value = value.expand(x.shape[0], -1, -1)
        out = torch.baddbmm(x, value, attn, out=overwritten)
    if eps:
        out += shift.unsqueeze(-1)
    return out.relu_()


def _in_autocast(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def _can_overwrite(x: Tensor) -> bool:
    """Tells whether a product may be written to ``x``.

    Not to the pixels of an expanded map, which share memory: torch would.
    """
    return (
        not torch.is_grad_enabled()
        and not (is_exporting() or torch.compiler.is_compiling())
        and (x.is_contiguous() or x.mT.is_contiguous())
    )
