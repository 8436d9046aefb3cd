"""Panels: what is drawn where, not merely that something is."""

import itertools

import numpy as np
import pytest

from attn_plugins.visualization import (
    UNTRAINED,
    Sample,
    caption,
    captioned,
    colourise,
    overlay,
    prediction_panels,
    rendered,
)
from attn_plugins.visualization.panels import UNLABELLED

CLASSES = ('sky', 'sea', 'boat', 'car')
PALETTE = ((10, 20, 30), (40, 50, 60), (70, 80, 90), (100, 110, 120))


@pytest.fixture
def sample():
    """Sky above sea in truth, sky alone in the prediction."""
    image = np.full((40, 60, 3), 7, np.uint8)
    truth = np.repeat([[0], [1]], [20, 20], axis=0) * np.ones((1, 60), int)
    truth[:2] = UNLABELLED
    return Sample(image, truth, np.zeros((40, 60), int))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_colourise_uses_the_palette_and_white_for_unlabelled():
    colours = colourise(np.array([[0, 3, UNLABELLED]]), PALETTE)
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[[10, 20, 30], [100, 110, 120], [255, 255, 255]]]


def test_panels_are_input_truth_prediction(sample):
    figure = prediction_panels([sample], CLASSES, PALETTE)
    assert [axes.get_title() for axes in figure.axes] == [
        'input',
        'truth',
        'prediction',
    ]
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(drawn[0], sample.image)
    np.testing.assert_array_equal(drawn[1], colourise(sample.truth, PALETTE))
    np.testing.assert_array_equal(drawn[2], colourise(sample.prediction, PALETTE))


def test_large_regions_carry_their_names_inside(sample):
    figure = prediction_panels([sample], CLASSES, PALETTE)
    image, truth, prediction = figure.axes
    assert texts(image) == []
    assert texts(truth) == ['sky', 'sea']
    assert texts(prediction) == ['sky']
    for text in truth.texts:
        x, y = (round(place) for place in text.get_position())
        assert CLASSES[sample.truth[y, x]] == text.get_text()


def test_small_regions_carry_no_name(sample):
    sample.prediction[30, 30] = 2
    figure = prediction_panels([sample], CLASSES, PALETTE)
    assert texts(figure.axes[2]) == ['sky']


def test_legend_lists_what_is_shown(sample):
    legend = prediction_panels([sample], CLASSES, PALETTE).legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ['sky', 'sea', 'unlabelled']
    colour = legend.get_patches()[1].get_facecolor()[:3]
    np.testing.assert_allclose(colour, np.array(PALETTE[1]) / 255)


def test_a_class_of_the_index_of_unlabelled():
    """Of more than 255 classes: unlabelled in truth, a class in a prediction."""
    names = [f'c{index}' for index in range(300)]
    palette = [(index % 256, index // 256, 9) for index in range(300)]
    truth = np.full((40, 60), UNLABELLED)
    prediction = np.repeat([[255], [299]], 20, axis=0) * np.ones((1, 60), int)
    sample = Sample(np.zeros((40, 60, 3), np.uint8), truth, np.uint16(prediction))
    figure = prediction_panels([sample], names, palette)
    drawn = [axes.images[0].get_array()[[0, 39], 0] for axes in figure.axes[1:]]
    assert drawn[0].tolist() == [[255, 255, 255]] * 2
    assert drawn[1].tolist() == [[255, 0, 9], [43, 1, 9]]
    assert [texts(axes) for axes in figure.axes[1:]] == [[], ['c255', 'c299']]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ['c255', 'c299', 'unlabelled']
    figure = overlay(sample.image, prediction, names, palette, opacity=1)
    assert rendered(figure)[0, 0].tolist() == [255, 0, 9]


@pytest.mark.parametrize('rows', [1, 3])
def test_figure_grows_by_rows_of_the_pictures_shape(sample, rows):
    figure = prediction_panels([sample] * rows, CLASSES, PALETTE, width=6)
    assert len(figure.axes) == 3 * rows
    width, height = figure.get_size_inches()
    assert width == 6
    assert height == pytest.approx(0.9 + rows * 6 / 3 * 40 / 60)


def test_nothing_is_cut_off(sample):
    figure = prediction_panels([sample] * 2, CLASSES, PALETTE)
    figure.draw_without_rendering()
    inside = figure.bbox
    for artist in (*figure.axes, figure.legends[0]):
        box = artist.get_tightbbox()
        assert box.x0 >= inside.x0 - 1
        assert box.y0 >= inside.y0 - 1
        assert box.x1 <= inside.x1 + 1
        assert box.y1 <= inside.y1 + 1


def test_overlay_is_the_picture_with_colours_names_and_a_legend(sample):
    image = np.full((240, 320, 3), 100, np.uint8)
    label = np.repeat([0, 1], 120)[:, None] * np.ones((1, 320), int)
    figure = overlay(image, label, CLASSES, PALETTE, opacity=0.5)
    (axes,) = figure.axes
    drawn = axes.images[0].get_array()
    assert drawn[0, 0].tolist() == [55, 60, 65]
    assert texts(axes) == ['sky', 'sea']
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ['sky', 'sea']
    picture = rendered(figure)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 640  # names need room
    assert picture.shape[0] > 480
    assert picture[0, 0].tolist() == [55, 60, 65]


def test_overlay_of_many_classes_is_not_cut_off():
    names = [f'long class name {index}' for index in range(40)]
    palette = [(index, index, index) for index in range(40)]
    label = np.arange(40).repeat(60).reshape(40, 60)
    figure = overlay(np.zeros((40, 60, 3), np.uint8), label, names, palette)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    (axes,) = figure.axes
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0
    assert legend.y1 <= axes.get_window_extent().y0 + 1


@pytest.mark.parametrize('width', [320, 333, 641, 2000])
def test_captions_are_not_cut_off(width):
    lines = ['12.5 %  sky', '87.5 %  ' + 'a long class name, ' * 12]
    figure = caption(width, lines, UNTRAINED)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
    for upper, lower in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1
    said = ' '.join(text.get_text() for text in figure.texts)
    assert ' '.join(said.split()) == ' '.join(' '.join([*lines, UNTRAINED]).split())
    assert rendered(figure).shape[1] == width


def test_a_captioned_picture_keeps_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 333, 3), dtype=np.uint8)
    picture = captioned(image, ['sky'])
    assert picture.shape[1] == 333
    np.testing.assert_array_equal(picture[:40], image)
    narrow = captioned(image[:, :60], ['sky'])
    np.testing.assert_array_equal(narrow[:40, :60], image[:, :60])
    assert (narrow[:40, 60:] == 255).all()
    assert narrow.shape[1] == 320
