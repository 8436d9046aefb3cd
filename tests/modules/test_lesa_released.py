"""A released LESA layer does in training what the released code did."""

import pytest
import torch
from released_files import released_input, released_outputs, released_state_dict

from attn_plugins.modules.lesa import LESA2d
from attn_plugins.released.layouts import apply_table
from attn_plugins.released.lesa import lesa_layer

NAME = 'lesa_layer_detection_train'


def converted_layer(dtype: torch.dtype) -> LESA2d:
    layer = LESA2d(64, num_heads=8, rel_pos_size=12)
    state_dict = apply_table(lesa_layer('2d', dcn=False), released_state_dict(NAME))
    layer.load_state_dict(state_dict, strict=True)
    return layer.to(dtype).train()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.float64, 1e-6)]
)
def test_training_step(dtype, tolerance):
    """Two different images; the stored numbers were computed in float64."""
    stored = released_outputs(NAME)
    shape = tuple(stored.pop('input_shape').tolist())
    layer = converted_layer(dtype)
    x = released_input(shape).to(dtype).requires_grad_()
    output = layer(x)
    (output * released_input(shape, seed=100).to(dtype)).sum().backward()
    norm = layer.context.similarity_norm
    actual = dict(
        output=output,
        input_grad=x.grad,
        rel_height_grad=layer.context.rel_h.grad,
        similarity_weight_grad=norm.weight.grad,
        similarity_running_mean=norm.running_mean,
        similarity_running_var=norm.running_var,
    )
    assert actual.keys() == stored.keys()
    errors = {
        name: relative_error(actual[name].detach(), torch.from_numpy(expected))
        for name, expected in stored.items()
    }
    assert max(errors.values()) < tolerance, errors


def test_swapped_axes_are_seen():
    """The comparison can fail: with the two tables exchanged the output is another."""
    stored = released_outputs(NAME)
    layer = converted_layer(torch.float64)
    context = layer.context
    context.rel_h, context.rel_w = context.rel_w, context.rel_h
    with torch.no_grad():
        output = layer(released_input(tuple(stored['input_shape'].tolist())).double())
    assert relative_error(output, torch.from_numpy(stored['output'])) > 1e-3
