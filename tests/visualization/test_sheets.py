"""Contact sheets: every map under its name, nothing cut off, honest colours."""

import numpy as np
import pytest

from attn_plugins.visualization import (
    UNTRAINED,
    Attention,
    AttentionMap,
    attention_sheet,
    gate_overview,
    rendered,
)
from attn_plugins.visualization.sheets import _numbers

IMAGE = np.full((40, 60, 3), (200, 100, 50), np.uint8)


def values(low, high):
    return np.linspace(low, high, 24, dtype=np.float32).reshape(4, 6)


def example(count=3, **options):
    maps = [
        AttentionMap(f'slot {index}', values(index, index + 1), **options)
        for index in range(count)
    ]
    return Attention('head.attn', 'ExternalAttention2d', ['map 4 x 6'], maps)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def scales(figure):
    """Labels of the scales that are seen."""
    labels = [
        [tick.get_text() for tick in axes.get_xticklabels()]
        for axes in figure.axes
        if axes.axison
    ]
    return [found for found in labels if any(text.strip() for text in found)]


def test_image_and_maps_under_their_names():
    figure = attention_sheet(IMAGE, example())
    assert titles(figure) == ['input', 'slot 0', 'slot 1', 'slot 2']
    assert texts(figure) == ['head.attn  (ExternalAttention2d)', 'map 4 x 6']
    image, first = figure.axes[:2]
    np.testing.assert_array_equal(image.images[0].get_array(), IMAGE)
    drawn = first.images[1]
    np.testing.assert_array_equal(drawn.get_array(), values(0, 1))
    assert drawn.get_extent() == [-0.5, 59.5, 39.5, -0.5]  # over the whole image
    assert drawn.get_interpolation() == 'nearest'


def test_ranges_are_written_below():
    figure = attention_sheet(IMAGE, example(2))
    figure.draw_without_rendering()
    assert scales(figure) == [['0', '1'], ['1', '2']]


def test_signed_maps_have_colours_around_zero():
    item = AttentionMap('content', values(-1, 3), signed=True)
    figure = attention_sheet(IMAGE, example()._replace(maps=[item]))
    drawn = figure.axes[1].images[1]
    assert drawn.get_clim() == (-3, 3)
    assert drawn.get_cmap().name == 'PuOr_r'
    figure.draw_without_rendering()
    assert scales(figure) == [['-3', '0', '3']]


def test_limits_of_a_map_are_kept():
    figure = attention_sheet(IMAGE, example(1, limits=(0.0, 5.0)))
    assert figure.axes[1].images[1].get_clim() == (0, 5)


def test_a_flat_map_and_one_with_gaps_can_be_drawn():
    flat = AttentionMap('flat', np.full((4, 6), 0.5))
    zero = AttentionMap('zero', np.zeros((4, 6)), signed=True)
    line = values(0, 1)
    line[1:] = np.nan
    figure = attention_sheet(
        IMAGE, example()._replace(maps=[flat, zero, AttentionMap('line', line)])
    )
    figure.draw_without_rendering()
    for axes in figure.axes[1:4]:
        low, high = axes.images[1].get_clim()
        assert low < high


def test_numbers_can_be_told_apart():
    assert _numbers([0.015621, 0.015634]) == ['0.01562', '0.01563']
    assert _numbers([0, 1]) == ['0', '1']


def test_points_are_marked_and_numbered():
    figure = attention_sheet(IMAGE, example(1, point=(0.5, 0.25)), [(0.5, 0.25)] * 2)
    image, item = figure.axes[:2]
    for axes in (image, item):
        assert axes.lines[0].get_xydata().tolist() == [[29.5, 9.5]]
    assert [text.get_text() for text in image.texts] == ['1', '2']


@pytest.mark.parametrize('count', [1, 2, 7, 17])  # of 17 on, six across
def test_nothing_is_cut_off_or_overlaps(count):
    figure = attention_sheet(IMAGE, example(count), warning=UNTRAINED)
    figure.draw_without_rendering()
    inside = figure.bbox
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.has_data()]
    heads = [text.get_window_extent() for text in figure.texts]
    for box in (*boxes, *heads):
        assert box.x0 >= inside.x0 - 1
        assert box.y0 >= inside.y0 - 1
        assert box.x1 <= inside.x1 + 1
        assert box.y1 <= inside.y1 + 1
    assert min(box.y0 for box in heads) >= max(box.y1 for box in boxes) - 1


def test_the_warning_is_seen():
    figure = attention_sheet(IMAGE, example(7), warning=UNTRAINED)
    warning = figure.texts[-1]
    assert warning.get_text() == UNTRAINED
    assert warning.get_fontweight() == 'bold'
    plain = rendered(attention_sheet(IMAGE, example(7)))
    assert plain.ndim == 3
    assert UNTRAINED not in texts(attention_sheet(IMAGE, example(7)))


def test_gates_of_all_layers_in_one_sheet():
    gate = AttentionMap('gate w: 0 local, 1 context', values(0.2, 0.4), limits=(0, 1))
    layers = [
        example(1)._replace(name='backbone.layer3.0.conv2'),
        example(1)._replace(name='backbone.layer4.0.conv2', maps=[gate]),
    ]
    figure = gate_overview(IMAGE, layers)
    assert titles(figure) == ['input', 'backbone.layer4.0.conv2: 0.30']
    with pytest.raises(ValueError, match='no layer has a gate'):
        gate_overview(IMAGE, layers[:1])
