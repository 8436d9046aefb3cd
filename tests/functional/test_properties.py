"""Functions with drawn shapes: what the specification gives, or a ValueError."""

import torch
from drawn import SIZES, result_or_value_error, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from attn_plugins.functional import (
    axial_attention,
    axial_position_attention,
    content_attention,
    external_attention,
    external_attention_block,
    reference,
    relative_attention,
    resize_table,
    self_attention,
)

NORMALIZATIONS = st.sampled_from(['double', 'softmax'])
SMALL = st.integers(1, 3)


@st.composite
def inputs(draw, shapes: dict[str, tuple[int, ...]]) -> tuple[list, bool]:
    """Draws tensors, one of them at times a size too long or without a dimension.

    Returns:
        The tensors, and whether all shapes are as they should be.
    """
    shapes = dict(shapes)
    wrong = draw(st.sampled_from([None] * len(shapes) + sorted(shapes)))
    if wrong:
        shape = list(shapes[wrong])
        index = draw(st.integers(0, len(shape) - 1))
        if draw(st.booleans()):
            shape[index] += 1
        else:
            del shape[index]
        shapes[wrong] = tuple(shape)
    return [draw(tensors(*shape)) for shape in shapes.values()], wrong is None


def compare(call, specification, possible: bool) -> None:
    out = result_or_value_error(call, possible)
    if out is not None:
        assert_close(out, specification(), rtol=1e-6, atol=1e-9)


@given(st.data(), st.integers(-2, 9), st.integers(1, 9), SMALL, st.booleans())
def test_resize_table(data, size, rows, channels, keep_sum):
    table = data.draw(tensors(rows, channels))
    out = result_or_value_error(
        lambda: resize_table(table, size, keep_sum=keep_sum), size > 0 and rows % 2 == 1
    )
    if out is None:
        return
    assert out.shape == (2 * size - 1, channels)
    reference_size = (rows + 1) // 2
    stretch = max(1, (size - 1) / max(1, reference_size - 1))
    # Row by row: where it falls in the table, between which two of its rows.
    for row in range(len(out)):
        place = (row - (size - 1)) / stretch + reference_size - 1
        if reference_size == 1:
            place = 0
        low = min(int(place + 1e-9), rows - 1)
        part = place - low
        expected = table[low] * (1 - part) + table[min(low + 1, rows - 1)] * part
        if keep_sum and size > reference_size:
            expected = expected * (reference_size / size)
        assert_close(out[row], expected, rtol=1e-6, atol=1e-9)


@given(st.data(), SIZES, SIZES, SMALL, SMALL, NORMALIZATIONS, st.booleans())
def test_external_attention(data, pixels, channels, slots, width, kind, with_bias):
    names = dict(x=(2, channels, pixels), key=(slots, channels), value=(slots, width))
    if with_bias:
        names['logit_bias'] = (slots,)
    (x, key, value, *bias), _ = data.draw(inputs(names))
    possible = (
        x.ndim >= 2
        and key.ndim == value.ndim == 2
        and key.shape[1] == x.shape[-2]
        and len(value) == len(key)
        and all(b.shape == (len(key),) for b in bias)
    )
    options = dict(normalization=kind)

    def specification():
        # A bias of the logits is one more channel: 1 in every pixel.
        images = x.mT if x.ndim == 3 else x.mT[None]
        keys = key
        if bias:
            images = torch.cat([images, torch.ones_like(images[..., :1])], -1)
            keys = torch.cat([key, bias[0][:, None]], 1)
        out = reference.external_attention(images, keys, value, **options).mT
        return out if x.ndim == 3 else out[0]

    compare(
        lambda: external_attention(
            x, key, value, logit_bias=bias[0] if bias else None, **options
        ),
        specification,
        possible,
    )


@given(st.data(), SIZES, SMALL, SMALL, SMALL, NORMALIZATIONS)
def test_external_attention_block(data, pixels, channels, slots, width, kind):
    (x, *weights), _ = data.draw(
        inputs(
            dict(
                x=(2, channels, pixels),
                query_weight=(width, channels),
                query_bias=(width,),
                key=(slots, width),
                value=(slots, width),
                out_weight=(channels, width),
            )
        )
    )
    order = data.draw(st.sampled_from(['auto', 'folded', 'plain']))
    # More images, or one without a batch, more pixels and output channels are fine.
    possible = (
        x.ndim >= 2
        and x.shape[-2] == channels
        and all(
            weight.shape == shape
            for weight, shape in zip(
                weights[:4],
                [(width, channels), (width,), (slots, width), (slots, width)],
                strict=True,
            )
        )
        and weights[4].ndim == 2
        and weights[4].shape[1] == width
    )

    def specification():
        images = x.mT if x.ndim == 3 else x.mT[None]
        out = reference.external_attention_block(images, *weights, normalization=kind)
        return out.mT if x.ndim == 3 else out.mT[0]

    compare(
        lambda: external_attention_block(x, *weights, normalization=kind, order=order),
        specification,
        possible,
    )


@given(st.data(), SIZES, SMALL, NORMALIZATIONS, st.integers(1, 4))
def test_self_attention(data, pixels, width, kind, block):
    shape = (2, 1, pixels, width)
    (q, k, v), possible = data.draw(inputs(dict(q=shape, k=shape, v=shape)))
    compare(
        lambda: self_attention(q, k, v, normalization=kind, block_size=block),
        lambda: reference.self_attention(
            *(t[:, 0] for t in (q, k, v)), scale=width**-0.5, normalization=kind
        )[:, None],
        possible,
    )


@given(st.data(), SMALL, SMALL, SMALL, SMALL)
def test_content_attention(data, pixels, images, width, value_width):
    shape = (pixels, images, width)
    shapes = dict(q=shape, k=shape, v=(pixels, images, value_width))
    (q, k, v), _ = data.draw(inputs(shapes))
    possible = (
        q.ndim == v.ndim == 3 and q.shape == k.shape and q.shape[:2] == v.shape[:2]
    )

    def specification():
        maps = (t.transpose(0, 1)[:, None, :, None] for t in (q, k, v))
        return reference.gsa_content(*maps)[:, 0, :, 0].mT

    compare(lambda: content_attention(q, k, v), specification, possible)


@given(st.data(), SMALL, SMALL, SMALL, st.sampled_from([None, None, 0, 1, 2, -1]))
def test_axial_attention(data, pixels, lines, width, max_shift):
    with_content = data.draw(st.booleans())
    rows = 2 * pixels - 1 if max_shift is None else max(1, 2 * max_shift + 1)
    shape = (pixels, lines, width)
    shapes = dict(q=shape, v=shape, table=(rows, width))
    if with_content:
        shapes['k'] = shape
    (q, v, table, *k), _ = data.draw(inputs(shapes))
    possible = (
        q.ndim == v.ndim == 3
        and table.ndim == 2
        and q.shape[:2] == v.shape[:2]
        and table.shape[1] == q.shape[2]
        and all(t.shape == q.shape for t in k)
        and (
            len(table) % 2 == 1
            if max_shift is None
            else len(table) == 2 * max_shift + 1
        )
    )
    options = dict(max_shift=max_shift)

    def specification():
        maps = [t.transpose(0, 1)[:, None, :, None] for t in (q, *k, v)]
        size = table
        if max_shift is None:
            size = resize_table(table, len(q), keep_sum=not k)
        function = reference.gsa_axial_columns if k else reference.gsa_columns
        return function(*maps, size, **options)[:, 0, :, 0].mT

    block = data.draw(st.sampled_from([1, 5, 2**24]))
    function = axial_attention if k else axial_position_attention
    compare(
        lambda: function(q, *k, v, table, block_size=block, **options),
        specification,
        possible,
    )


@given(st.data(), SMALL, SMALL, SMALL, SMALL)
def test_relative_attention(data, height, width, channels, value_channels):
    shape = (2, 1, channels, height, width)
    (q, k, v, rel_h, rel_w), _ = data.draw(
        inputs(
            dict(
                q=shape,
                k=shape,
                v=(2, 1, value_channels, height, width),
                rel_h=(1, 2 * height - 1, channels),
                rel_w=(1, 2 * width - 1, channels),
            )
        )
    )
    possible = (
        q.shape == k.shape == shape
        and v.ndim == 5
        and (*v.shape[:2], *v.shape[3:]) == (*shape[:2], *shape[3:])
        and rel_h.shape == (1, 2 * height - 1, channels)
        and rel_w.shape == (1, 2 * width - 1, channels)
    )
    impl = data.draw(st.sampled_from(['auto', 'blocks', 'sdpa']))
    block = data.draw(st.sampled_from([None, 1, 4, 7]))
    compare(
        lambda: relative_attention(q, k, v, rel_h, rel_w, impl=impl, block=block),
        lambda: reference.lesa_attention(q, k, v, rel_h[0], rel_w[0], norm=lambda x: x),
        possible,
    )
