"""Maps that are mixed pixel by pixel: CARAFE, PSA masks, deformable attention."""

from torch import Tensor

from ..carafe import carafe
from ..ms_deform_attn import ms_deform_attn
from ..psa_mask import psa_mask, psa_mask_gradient
from .gradients import fill, vector_jacobian


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, **arguments
) -> None:
    output.copy_(carafe(features, masks, **arguments))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **arguments,
) -> None:
    grads = vector_jacobian(
        lambda *inputs: carafe(*inputs, **arguments), (features, masks), top_grad
    )
    fill((bottom_grad, mask_grad), grads)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **arguments,
) -> None:
    rfeatures.copy_(features)  # all that backward gets of them
    carafe_naive_forward(features, masks, output, **arguments)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **arguments,
) -> None:
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, **arguments
    )


def psamask_forward(
    input: Tensor,
    output: Tensor,
    *,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    output.copy_(psa_mask(input, psa_type == 0, (h_mask, w_mask)))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    *,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    grad_input.copy_(psa_mask_gradient(grad_output, psa_type == 0, (h_mask, w_mask)))


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    return ms_deform_attn(
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights,
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    maps = (value_spatial_shapes, value_level_start_index)
    grads = vector_jacobian(
        lambda value, *rest: ms_deform_attn(value, *maps, *rest),
        (value, sampling_locations, attention_weights),
        grad_output,
    )
    fill((grad_value, grad_sampling_loc, grad_attn_weight), grads)
