"""mmcv's binary module ``mmcv._ext``: its names and conventions over this package.

mmcv's Python classes call these functions by name, and hand most of them the tensors
that take the results. The backward functions are called by mmcv's autograd functions.
"""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from .calls.boxes import (
    bbox_overlaps,
    nms,
    nms_match,
    softnms,
)
from .calls.convolutions import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .calls.losses import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .calls.maps import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    psamask_backward,
    psamask_forward,
)
from .calls.refusal import refuse
from .calls.regions import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)


def get_compiler_version() -> str:
    return 'none: attn_plugins.ops'


def get_compiling_cuda_version() -> str:
    return 'not available'


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Stands for operators that are not provided: mmcv asks for all when imported."""
    if name.startswith('_'):
        raise AttributeError(name)
    return partial(refuse, name)
