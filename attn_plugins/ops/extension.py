"""mmcv's binary module ``mmcv._ext``: its names and conventions over this package.

mmcv's Python classes call these functions by name, and hand most of them the tensors
that take the results. The backward functions are called by mmcv's autograd functions.
"""

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from .deform_conv import deform_conv2d
from .nms import nms as nms
from .roi_align import roi_align, roi_align_gradient


def get_compiler_version() -> str:
    return 'none: attn_plugins.ops'


def get_compiling_cuda_version() -> str:
    return 'not available'


def vector_jacobian(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Returns the gradients of ``function(*inputs)`` in all inputs."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(function(*inputs), inputs, grad)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode == 0:
        _refuse("roi_align with pool_mode='max'")
    size = (aligned_height, aligned_width)
    output.copy_(roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    size = (aligned_height, aligned_width)
    grad_input.copy_(
        roi_align_gradient(
            grad_output,
            rois,
            grad_input.shape,
            size,
            spatial_scale,
            sampling_ratio,
            aligned,
        )
    )


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
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


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
            x, offset, weight, mask=mask, **how
        ),
        (input, offset, weight, mask),
        grad_output,
    )
    filled = (grad_input, grad_offset, grad_weight, grad_mask)
    for target, grad in zip(filled, grads, strict=True):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f'attn_plugins.ops does not provide the mmcv operator {name}: install a '
        'compiled mmcv in place of mmcv-lite (`make setup OPS=compiled` does)'
    )


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Stands for operators that are not provided: mmcv asks for all when imported."""
    if name.startswith('_'):
        raise AttributeError(name)
    return lambda *args, **kwargs: _refuse(name)
