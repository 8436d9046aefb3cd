"""Pages: whole in themselves, well formed, and safe with any text."""

import base64
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from attn_plugins.visualization import Page, png_bytes

VOID = ('img', 'link', 'meta')


class Checker(HTMLParser):
    """Raises at a tag that is not closed where it should be; lists all addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ('src', 'href')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def page():
    page = Page('A <run> & "more"')
    page.heading('Curves')
    page.text('5 < 6')
    page.warning('untrained')
    page.subheading('layer')
    page.table(('class', 'IoU'), [('sky', 0.5), ('<sea>', '7.25')])
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    page.picture(figure, 'a "line"')
    page.picture(np.zeros((4, 5, 3), np.uint8), 'black')
    return page


def test_page_is_well_formed_and_needs_no_other_file(page):
    checked = check(page.render())
    for address in checked.addresses:
        assert address.startswith(('data:', '#section-'))
    assert 'script' not in checked.tags
    assert 'http' not in page.render()
    assert '@import' not in page.render()
    assert 'url(' not in page.render()


def test_text_stays_text(page):
    checked = check(page.render())
    for text in ('A <run> & "more"', '5 < 6', '<sea>', 'untrained'):
        assert text in checked.texts
    assert 'run' not in checked.tags


def test_numbers_are_to_the_right(page):
    text = page.render()
    assert '<td class="number">0.5</td>' in text
    assert '<td>sky</td>' in text
    assert '<th class="number">IoU</th>' in text


def test_pictures_are_inside(page):
    addresses = check(page.render()).addresses
    pictures = [a for a in addresses if a.startswith('data:image/png;base64,')]
    assert len(pictures) == 2
    data = base64.b64decode(pictures[1].partition(',')[2])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (4, 5, 3)


def test_headings_are_linked(page):
    page.heading('More')
    assert '#section-2' in check(page.render()).addresses
    assert 'id="section-2"' in page.render()


def test_png_keeps_colours():
    red = np.uint8([[[255, 0, 0]]])
    decoded = cv2.imdecode(np.frombuffer(png_bytes(red), np.uint8), 1)
    assert decoded[0, 0].tolist() == [0, 0, 255]  # BGR


def test_write(page, tmp_path):
    page.write(tmp_path / 'page.html')
    assert (tmp_path / 'page.html').read_text(encoding='utf-8') == page.render()
