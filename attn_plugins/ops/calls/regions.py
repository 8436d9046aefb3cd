"""Boxes read off maps: RoIAlign, RoIPool, deformable RoI pooling."""

from torch import Tensor

from ..deform_roi_pool import deform_roi_pool
from ..roi_align import roi_align, roi_align_gradient
from ..roi_pool import roi_pool, roi_pool_gradient
from .gradients import fill, vector_jacobian
from .refusal import refuse


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
        refuse("roi_align with pool_mode='max'")
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


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    size = (pooled_height, pooled_width)
    fill((output, argmax), roi_pool(input, rois, size, spatial_scale))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    grad_input.copy_(
        roi_pool_gradient(grad_output, rois, argmax.long(), grad_input.shape)
    )


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    offset = offset if offset.numel() else None
    size = (pooled_height, pooled_width)
    output.copy_(
        deform_roi_pool(input, rois, offset, size, spatial_scale, sampling_ratio, gamma)
    )


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    how = ((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    if not offset.numel():
        grads = vector_jacobian(
            lambda x: deform_roi_pool(x, rois, None, *how), (input,), grad_output
        )
        return fill((grad_input,), grads)
    grads = vector_jacobian(
        lambda x, offset: deform_roi_pool(x, rois, offset, *how),
        (input, offset),
        grad_output,
    )
    return fill((grad_input, grad_offset), grads)
