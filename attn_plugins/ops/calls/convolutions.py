"""Deformable convolutions, and convolutions at some pixels only."""

import math

import torch
from torch import Tensor

from ..deform_conv import deform_conv2d
from ..masked_conv import masked_columns, masked_map
from .gradients import fill, vector_jacobian


def _deform_conv(arguments: dict) -> dict:
    """Returns the arguments of ``deform_conv2d`` from those of DCNv1 in mmcv."""
    return dict(
        stride=(arguments['dH'], arguments['dW']),
        padding=(arguments['padH'], arguments['padW']),
        dilation=(arguments['dilationH'], arguments['dilationW']),
        groups=arguments['group'],
        deform_groups=arguments['deformable_group'],
    )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **arguments,
) -> None:
    output.copy_(deform_conv2d(input, offset, weight, **_deform_conv(arguments)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **arguments,
) -> None:
    how = _deform_conv(arguments)
    grads = vector_jacobian(
        lambda *inputs: deform_conv2d(*inputs, weight, **how),
        (input, offset),
        grad_output,
    )
    fill((grad_input, grad_offset), grads)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **arguments,
) -> None:
    how = _deform_conv(arguments)
    # Linear in the weight: any of its shape yields the same.
    (grad,) = vector_jacobian(
        lambda weight: deform_conv2d(input, offset, weight, **how),
        (grad_weight,),
        grad_output,
    )
    grad_weight.add_(grad, alpha=scale)


def _modulated(arguments: dict) -> dict:
    """Returns the arguments of ``deform_conv2d`` from those of DCNv2 in mmcv."""
    return dict(
        stride=(arguments['stride_h'], arguments['stride_w']),
        padding=(arguments['pad_h'], arguments['pad_w']),
        dilation=(arguments['dilation_h'], arguments['dilation_w']),
        groups=arguments['group'],
        deform_groups=arguments['deformable_group'],
    )


def _first_numbers(x: Tensor, shape: torch.Size) -> Tensor:
    """Returns offsets or factors as mmcv reads them for an output of this shape.

    It looks at no size of theirs: of maps larger than the output, which mmdet's DyHead
    hands over, it takes as many numbers as it needs in the order of memory.
    """
    shape = (*x.shape[:2], *shape[2:])
    if x.shape == shape:
        return x
    return x.flatten(1)[:, : math.prod(shape[1:])].reshape(shape)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **arguments,
) -> None:
    bias = bias if with_bias else None
    offset, mask = (_first_numbers(x, output.shape) for x in (offset, mask))
    output.copy_(
        deform_conv2d(input, offset, weight, bias, mask, **_modulated(arguments))
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **arguments,
) -> None:
    how = _modulated(arguments)
    grads = vector_jacobian(
        lambda x, offset, weight, mask: deform_conv2d(
            x,
            _first_numbers(offset, grad_output.shape),
            weight,
            mask=_first_numbers(mask, grad_output.shape),
            **how,
        ),
        (input, offset, weight, mask),
        grad_output,
    )
    fill((grad_input, grad_offset, grad_weight, grad_mask), grads)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    kernel_size, padding = (kernel_h, kernel_w), (pad_h, pad_w)
    col.copy_(masked_columns(im, mask_h_idx, mask_w_idx, kernel_size, padding))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    *,
    height: int,
    width: int,
    channels: int,
) -> None:
    im.copy_(masked_map(col, mask_h_idx, mask_w_idx, (height, width)))
