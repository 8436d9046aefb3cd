"""Draw a small segmentation data set in ADE20K's layout, with its class ids.

Four kinds of scenes (street, coast, lake, room) are painted from back to front out
of a few materials. Three materials stand for two classes each, and only the rest of
the scene tells which: the same water is `sea` or `lake`, the same grey slabs are
`road` or `floor`, the same plaster is `building` or `wall`.

    python tools/make_demo_data.py data/demo
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

# Places in ADE20K's list of 150 classes; 0 is unlabelled.
ADE20K_IDS = {
    'wall': 1,
    'building': 2,
    'sky': 3,
    'floor': 4,
    'tree': 5,
    'road': 7,
    'grass': 10,
    'person': 13,
    'mountain': 17,
    'car': 21,
    'sofa': 24,
    'sea': 27,
    'sand': 47,
    'boat': 77,
    'lake': 129,
}
UNLABELLED = None
SPLITS = ('training', 'validation')
RECIPE = 'recipe.json'
# To be raised whenever the pictures change, so that old ones do not pass for new.
DRAWING = 1

Colour = Sequence[float]
Points = np.ndarray


class Canvas:
    """A picture and its class ids, painted together from back to front.

    Lengths are in picture heights, with the origin in the upper left corner: `x` runs
    from 0 to `width`, `y` from 0 to 1.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        self.rng = rng
        self.shape = (height, width)
        self.width = width / height
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.zeros((height, width), np.uint8)

    def paint(self, points: Points, colour: Colour | np.ndarray, name: str | None):
        """Fills one or more polygons with a colour or with a picture-sized texture."""
        cover = self._cover(points)
        # Most things are small: touching only their surroundings halves the time.
        left, top, width, height = cv2.boundingRect((cover > 0).astype(np.uint8))
        there = np.s_[top : top + height, left : left + width]
        colour = np.broadcast_to(np.float32(colour), self.image.shape)[there]
        cover, image = cover[there], self.image[there]
        image += cover[..., None] * (colour - image)
        self.label[there][cover > 0.5] = 0 if name is UNLABELLED else ADE20K_IDS[name]

    def shade(self, points: Points, strength: float, blur: float = 0.0):
        """Darkens a polygon, with a soft edge where asked; class ids stay."""
        cover = self._cover(points)
        if blur:
            cover = cv2.GaussianBlur(cover, (0, 0), blur * self.shape[0])
        self.image *= 1 - strength * cover[..., None]

    def noise(self, cell_y: float, cell_x: float, octaves: int = 3) -> np.ndarray:
        """Smooth noise of about unit size whose largest spots have the cell's size."""
        total = np.zeros((*self.shape, 1), np.float32)
        for octave in range(octaves):
            grid = [
                max(2, round(length / cell * 2**octave))
                for length, cell in ((1, cell_y), (self.width, cell_x))
            ]
            coarse = self.rng.standard_normal(grid, np.float32)
            fine = cv2.resize(coarse, self.shape[::-1], interpolation=cv2.INTER_CUBIC)
            total[..., 0] += fine / 2**octave
        return total

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def vary(self, colour: Colour, spread: float = 14) -> np.ndarray:
        return np.float32(colour) + self.rng.normal(0, spread, 3).astype(np.float32)

    def choose(self, colours: Sequence[Colour]) -> np.ndarray:
        return self.vary(colours[self.rng.integers(len(colours))])

    def _cover(self, points: Points) -> np.ndarray:
        shift = 4
        pixels = np.round(np.asarray(points) * self.shape[0] * 2**shift)
        polygons = pixels.astype(np.int32).reshape(-1, *pixels.shape[-2:])
        cover = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(cover, list(polygons), 255, cv2.LINE_AA, shift)
        return cover.astype(np.float32) / 255


# Shapes


def box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], 1)


def below(canvas: Canvas, level: float, roughness: float, waves: int) -> Points:
    """Everything below an uneven line, such as a ridge or a shore."""
    x = np.linspace(0, canvas.width, 60)
    y = np.full_like(x, level)
    for wave in range(1, waves + 1):
        phase = canvas.between(0, 2 * np.pi)
        bend = canvas.rng.normal() * roughness / wave
        y += bend * np.sin(2.5 * wave * x + phase)
    return np.concatenate([np.stack([x, y], 1), [(canvas.width, 1.1), (0, 1.1)]])


# Materials. Those that stand for two classes draw their colours from the same ranges
# in either, so that no patch of them gives the class away.


def water(canvas: Canvas) -> np.ndarray:
    ripples = canvas.noise(0.02, 0.2)
    return canvas.vary((52, 112, 150)) + 13 * ripples


def slabs(canvas: Canvas) -> np.ndarray:
    return canvas.vary((122, 120, 118), 6) + 7 * canvas.noise(0.03, 0.05, 4)


def plaster(canvas: Canvas) -> np.ndarray:
    tones = ((205, 186, 160), (196, 152, 128), (184, 188, 182), (214, 200, 150))
    return canvas.choose(tones) + 5 * canvas.noise(0.12, 0.12)


def sky_texture(canvas: Canvas) -> np.ndarray:
    height = np.linspace(0, 1, canvas.shape[0], dtype=np.float32)[:, None, None]
    zenith, haze = canvas.vary((92, 150, 214)), canvas.vary((206, 222, 234), 8)
    clear = zenith + (haze - zenith) * np.minimum(1, 1.7 * height)
    cloud = np.clip(canvas.noise(0.25, 0.6, 4) - canvas.between(0, 1), 0, 0.9)
    return clear + cloud * (np.float32(246) - clear)


def grass_texture(canvas: Canvas) -> np.ndarray:
    tint = 16 * canvas.noise(0.2, 0.6, 2) * np.float32((1, 0.8, 0.3))
    return canvas.vary((104, 148, 62), 10) + tint + 9 * canvas.noise(0.03, 0.01)


def sand_texture(canvas: Canvas) -> np.ndarray:
    return canvas.vary((222, 198, 148), 8) + 7 * canvas.noise(0.03, 0.08, 4)


def rock(canvas: Canvas, haze: float) -> np.ndarray:
    bare = canvas.vary((112, 100, 98)) + 24 * canvas.noise(0.25, 0.1, 4)
    return bare + haze * (np.float32((168, 186, 208)) - bare)


def foliage(canvas: Canvas) -> np.ndarray:
    return canvas.vary((44, 92, 48), 10) + 17 * canvas.noise(0.04, 0.04)


# Things, standing with their feet at (x, y)


def sky(canvas: Canvas):
    canvas.paint(box(0, 0, canvas.width, 1), sky_texture(canvas), 'sky')


def mountains(canvas: Canvas, level: float):
    for haze in (0.65, 0.3):
        ridge = below(canvas, level, 0.06, 7)
        canvas.paint(ridge, rock(canvas, haze), 'mountain')
        level += 0.09


def house(canvas: Canvas, left: float, right: float, top: float, bottom: float):
    canvas.paint(box(left, top, right, bottom), plaster(canvas), 'building')
    canvas.shade(box(left, top, left + 0.12 * (right - left), bottom), 0.18)
    canvas.paint(box(left, top, right, top + 0.02), (120, 84, 74), 'building')
    glass = canvas.vary((74, 88, 104), 8)
    columns = max(2, round((right - left) / 0.13))
    panes = [
        box(x - 0.022, y, x + 0.022, y + 0.06)
        for x in left + (right - left) * (np.arange(columns) + 0.5) / columns
        for y in np.arange(top + 0.07, bottom - 0.1, 0.15)
    ]
    canvas.paint(np.array(panes), glass, 'building')


def tree(canvas: Canvas, x: float, y: float, size: float):
    canvas.shade(ellipse(x, y, 0.3 * size, 0.05 * size), 0.4, 0.01)
    trunk = box(x - 0.035 * size, y - 0.5 * size, x + 0.035 * size, y)
    canvas.paint(trunk, (88, 66, 50), 'tree')
    leaves = foliage(canvas)
    for _ in range(6):
        dx, dy = canvas.rng.normal(0, 0.13 * size, 2)
        radius = canvas.between(0.16, 0.24) * size
        crown = ellipse(x + dx, y - 0.68 * size + dy, radius, radius)
        canvas.paint(crown, leaves, 'tree')
        leaves = leaves + 4  # later crowns are nearer and catch more light


def person(canvas: Canvas, x: float, y: float, size: float):
    coats = ((196, 52, 48), (238, 190, 52), (232, 232, 236), (96, 56, 130))
    coat, trousers = canvas.choose(coats), canvas.choose(((44, 48, 66), (92, 76, 62)))
    skin = canvas.choose(((228, 184, 152), (150, 104, 76)))
    canvas.shade(ellipse(x, y, 0.2 * size, 0.04 * size), 0.45, 0.008)
    for side in (-1, 1):
        foot = x + side * canvas.between(0.03, 0.12) * size
        leg = [(x - 0.1 * size, y - 0.5 * size), (x + 0.1 * size, y - 0.5 * size)]
        leg += [(foot + 0.05 * size, y), (foot - 0.05 * size, y)]
        canvas.paint(np.array(leg), trousers, 'person')
    chest = ellipse(x, y - 0.62 * size, 0.15 * size, 0.23 * size)
    canvas.paint(chest, coat, 'person')
    head = ellipse(x, y - 0.91 * size, 0.085 * size, 0.1 * size)
    canvas.paint(head, skin, 'person')


def car(canvas: Canvas, x: float, y: float, size: float):
    lacquers = ((186, 40, 42), (40, 78, 158), (226, 226, 222), (48, 50, 56))
    lacquer = canvas.choose(lacquers)

    def part(left: float, top: float, right: float, bottom: float, slant: float = 0):
        upper = [(left + slant, top), (right - slant, top)]
        points = np.array([*upper, (right, bottom), (left, bottom)])
        return points * size + (x, y)

    canvas.shade(part(-0.56, -0.1, 0.56, 0.05), 0.6, 0.012)
    for left in (-0.46, 0.28):
        canvas.paint(part(left, -0.2, left + 0.18, 0), (26, 26, 28), 'car')
    canvas.paint(part(-0.42, -0.72, 0.42, -0.4, 0.1), lacquer, 'car')
    canvas.paint(part(-0.36, -0.67, 0.36, -0.42, 0.09), (52, 62, 74), 'car')
    canvas.paint(part(-0.5, -0.44, 0.5, -0.1, 0.03), lacquer, 'car')
    for left in (-0.46, 0.3):
        canvas.paint(part(left, -0.37, left + 0.16, -0.27), (250, 120, 84), 'car')
    canvas.paint(part(-0.14, -0.27, 0.14, -0.18), (236, 232, 208), 'car')


def boat(canvas: Canvas, x: float, y: float, size: float):
    hull = [(-0.5, -0.14), (0.5, -0.14), (0.36, 0.04), (-0.38, 0.04)]
    colour = canvas.choose(((150, 48, 44), (240, 240, 236), (64, 60, 72)))
    canvas.shade(ellipse(x, y + 0.06 * size, 0.42 * size, 0.06 * size), 0.35, 0.01)
    sail = [(-0.02, -1), (-0.02, -0.2), (canvas.between(0.3, 0.5), -0.2)]
    jib = [(-0.06, -0.9), (-0.06, -0.2), (canvas.between(-0.5, -0.3), -0.2)]
    canvas.paint(np.array(sail) * size + (x, y), (244, 240, 226), 'boat')
    canvas.paint(np.array(jib) * size + (x, y), (226, 214, 190), 'boat')
    canvas.paint(np.array(hull) * size + (x, y), colour, 'boat')


def lamp_post(canvas: Canvas, x: float, y: float, size: float):
    canvas.paint(box(x - 0.006, y - size, x + 0.006, y), (58, 60, 64), UNLABELLED)
    lamp = ellipse(x, y - size, 0.03, 0.018)
    canvas.paint(lamp, (244, 232, 190), UNLABELLED)


def sofa(canvas: Canvas, x: float, y: float, size: float):
    covers = ((176, 62, 66), (70, 96, 156), (92, 130, 104), (206, 164, 90))
    cloth = canvas.choose(covers) + 5 * canvas.noise(0.03, 0.1)

    def part(left: float, top: float, right: float, bottom: float) -> Points:
        return box(left, top, right, bottom) * size + (x, y)

    canvas.shade(part(-0.56, -0.1, 0.56, 0.03), 0.5, 0.02)
    for foot in (-0.46, 0.4):
        canvas.paint(part(foot, -0.1, foot + 0.06, 0), (70, 48, 36), 'sofa')
    canvas.paint(part(-0.46, -0.58, 0.46, -0.2), cloth, 'sofa')
    canvas.shade(part(-0.005, -0.56, 0.005, -0.3), 0.4)
    canvas.paint(part(-0.42, -0.32, 0.42, -0.2), cloth + 16, 'sofa')
    canvas.paint(part(-0.42, -0.2, 0.42, -0.05), cloth - 20, 'sofa')
    for arm in (-0.52, 0.38):
        canvas.paint(part(arm, -0.4, arm + 0.14, -0.05), cloth + 8, 'sofa')
    cushion = part(0.16, -0.48, 0.34, -0.3)
    canvas.paint(cushion, canvas.choose(((238, 232, 214), (226, 180, 70))), 'sofa')


def painting(canvas: Canvas, x: float, y: float, size: float):
    """A seascape in a frame: water that is neither sea nor lake, and not labelled."""
    frame = box(x - 0.7 * size, y - 0.5 * size, x + 0.7 * size, y + 0.5 * size)
    centre = (x, y)
    shadow = np.array((0.012, 0.018))
    canvas.shade(frame + shadow, 0.35, 0.01)
    canvas.paint(frame, (92, 66, 40), UNLABELLED)
    inner = (frame - centre) * 0.86 + centre
    canvas.paint(inner, sky_texture(canvas), UNLABELLED)
    inner[:2, 1] = y + 0.05 * size
    canvas.paint(inner, water(canvas), UNLABELLED)


# Scenes


def street(canvas: Canvas):
    horizon = canvas.between(0.4, 0.5)
    sky(canvas)
    left = canvas.between(-0.2, 0)
    while left < canvas.width:
        right = left + canvas.between(0.22, 0.42)
        house(canvas, left, right, canvas.between(0.06, 0.26), horizon + 0.03)
        left = right + canvas.between(0, 0.12) * (canvas.rng.random() < 0.5)
    canvas.paint(below(canvas, horizon, 0.004, 3), grass_texture(canvas), 'grass')

    start, end = (canvas.between(0.4, 0.6) * canvas.width for _ in range(2))
    far, near = canvas.between(0.05, 0.09), canvas.between(0.4, 0.55)

    def place(across: float, depth: float) -> tuple[float, float]:
        """From the road's left edge (-1) to its right (1), from far (0) to near (1)."""
        x = start + (end - start) * depth + across * (far + (near - far) * depth)
        return x, horizon + (1.02 - horizon) * depth

    def strip(half_width: float, far: float, near: float) -> list:
        left, right = -half_width, half_width
        return [
            place(left, far),
            place(right, far),
            place(right, near),
            place(left, near),
        ]

    canvas.paint(strip(1, 0, 1), slabs(canvas), 'road')
    dashes = [strip(0.03, depth, 1.4 * depth) for depth in (0.1, 0.2, 0.4, 0.7)]
    canvas.paint(dashes, (226, 224, 214), 'road')

    things = [
        (car, canvas.between(0.1, 0.3), 0.5),
        (car, canvas.between(0.4, 0.7), -0.5),
    ]
    for thing in (tree, tree, tree, person, person, person, lamp_post):
        across = canvas.rng.choice((-1, 1)) * canvas.between(1.15, 1.7)
        things.append((thing, canvas.between(0.03, 0.8), across))
    heights = {car: 0.15, tree: 0.32, person: 0.2, lamp_post: 0.32}
    for thing, depth, across in sorted(things, key=lambda thing: thing[1]):
        thing(canvas, *place(across, depth), heights[thing] * (0.6 + 1.6 * depth))


def coast(canvas: Canvas):
    horizon = canvas.between(0.3, 0.45)
    shore = canvas.between(0.66, 0.8)
    sky(canvas)
    if canvas.rng.random() < 0.5:
        mountains(canvas, horizon - 0.1)
    canvas.paint(box(0, horizon, canvas.width, 1), water(canvas), 'sea')
    for depth in np.sort(canvas.rng.uniform(0, 1, canvas.rng.integers(1, 4))):
        y = horizon + 0.04 + (shore - horizon - 0.1) * depth
        boat(canvas, canvas.between(0.1, 0.9) * canvas.width, y, 0.18 + 0.14 * depth)
    beach = below(canvas, shore, 0.025, 4)
    foam = beach - (0, 0.012)
    canvas.paint(foam, (226, 236, 236), 'sea')
    canvas.paint(beach, sand_texture(canvas), 'sand')
    for y in np.sort(canvas.rng.uniform(shore + 0.05, 0.98, canvas.rng.integers(1, 4))):
        x = canvas.between(0.05, 0.95) * canvas.width
        person(canvas, x, y, 0.22 + 0.4 * (y - shore))


def lake(canvas: Canvas):
    meadow = canvas.between(0.4, 0.5)
    sky(canvas)
    mountains(canvas, meadow - 0.24)
    canvas.paint(below(canvas, meadow, 0.012, 3), grass_texture(canvas), 'grass')
    x, y = (
        canvas.between(0.35, 0.65) * canvas.width,
        meadow + canvas.between(0.18, 0.24),
    )
    radius_x, radius_y = canvas.between(0.5, 0.75), canvas.between(0.13, 0.17)
    bank = ellipse(x, y, radius_x, radius_y)
    bank += canvas.rng.normal(0, 0.006, bank.shape)
    canvas.shade(bank - (0, 0.008), 0.35)
    canvas.paint(bank, water(canvas), 'lake')
    if canvas.rng.random() < 0.6:
        boat(canvas, x + canvas.between(-0.3, 0.3), y, canvas.between(0.18, 0.28))
    for side in (-1, 1):
        tree_x = x + side * canvas.between(0.5, 0.8) * radius_x
        tree(canvas, tree_x, meadow + 0.02, canvas.between(0.2, 0.3))
    for _ in range(canvas.rng.integers(1, 3)):
        x = canvas.between(0.05, 0.95) * canvas.width
        person(canvas, x, canvas.between(0.88, 0.99), canvas.between(0.24, 0.34))
    x = canvas.rng.choice((0.05, 0.95)) * canvas.width
    tree(canvas, x, 1.0, canvas.between(0.5, 0.75))


def room(canvas: Canvas):
    skirting = canvas.between(0.56, 0.66)
    corner = canvas.between(0.12, 0.3) * canvas.width
    paint = plaster(canvas)
    canvas.paint(box(0, 0, canvas.width, 1), paint, 'wall')
    side_wall = np.array([(0, 0), (corner, 0), (corner, skirting), (0, 1.02)])
    canvas.shade(side_wall, 0.15)
    floor = np.array(
        [(corner, skirting), (canvas.width, skirting), (canvas.width, 1), (0, 1)]
    )
    canvas.paint(floor, slabs(canvas), 'floor')
    for x in (0.4, 0.8)[: canvas.rng.integers(1, 3)]:
        x = (x + canvas.between(-0.06, 0.06)) * canvas.width
        painting(canvas, x, canvas.between(0.15, 0.28), canvas.between(0.14, 0.24))
    x = canvas.between(0.5, 0.75) * canvas.width
    sofa(canvas, x, canvas.between(0.8, 0.9), canvas.between(0.5, 0.68))
    if canvas.rng.random() < 0.8:
        x = canvas.between(0.1, 0.95) * canvas.width
        person(canvas, x, canvas.between(0.85, 0.98), canvas.between(0.42, 0.55))


SCENES: tuple[Callable[[Canvas], None], ...] = (street, coast, lake, room)


def draw(seed: int, split: str, index: int, height: int, width: int):
    """Draws one scene; the result depends on the arguments alone.

    Returns:
        An RGB picture (height, width, 3) and its ADE20K ids (height, width), 8-bit.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    canvas = Canvas(rng, height, width)
    SCENES[index % len(SCENES)](canvas)
    light = canvas.between(0.72, 1.12) * rng.normal(1, 0.03, 3)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    slope = 1 + canvas.between(-0.25, 0.25) * x + canvas.between(-0.15, 0.15) * y
    picture = canvas.image * (slope[..., None] * light)
    picture += rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), canvas.label


def write(folder: Path, counts: dict[str, int], size: tuple[int, int], seed: int):
    """Draws all pictures of all splits into a folder, in ADE20K's layout."""
    for split, count in counts.items():
        images, annotations = (
            folder / kind / split for kind in ('images', 'annotations')
        )
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for index in range(count):
            picture, label = draw(seed, split, index, *size)
            stem = f'demo_{split[:5]}_{index:05d}'
            _, jpeg = cv2.imencode('.jpg', picture[..., ::-1])
            (images / f'{stem}.jpg').write_bytes(jpeg.tobytes())
            _, png = cv2.imencode('.png', label)
            (annotations / f'{stem}.png').write_bytes(png.tobytes())


def make_demo_data(
    out: Path,
    num_train: int = 240,
    num_val: int = 40,
    size: tuple[int, int] = (240, 320),
    seed: int = 0,
) -> bool:
    """Draws the data set, whole or not at all.

    Returns:
        Whether anything was drawn: False if `out` already holds this very data set.

    Raises:
        FileExistsError: `out` holds something else.
    """
    options = {
        'drawing': DRAWING,
        'num_train': num_train,
        'num_val': num_val,
        'size': list(size),
        'seed': seed,
    }
    recipe = json.dumps(options, indent=2) + '\n'
    if (out / RECIPE).is_file() and (out / RECIPE).read_text() == recipe:
        return False
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f'{out} exists and holds something else than this data set '
            '(or one of other options or an older one): remove it or name another'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Renaming is all or nothing; drawing in place could be cut off half-way.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.demo-') as scratch:
        partial = Path(scratch) / out.name
        write(partial, {'training': num_train, 'validation': num_val}, size, seed)
        (partial / RECIPE).write_text(recipe)
        partial.rename(out)
    return True


def at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f'{text!r} is no number from {minimum} up')
        return int(text)

    return parse


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition('x')
    if (
        not (height.isdecimal() and width.isdecimal())
        or min(int(height), int(width)) < 32
    ):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not HEIGHTxWIDTH, such as 240x320, of at least 32 pixels each'
        )
    return int(height), int(width)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument('--num-train', type=at_least(1), default=240)
    parser.add_argument('--num-val', type=at_least(1), default=40)
    parser.add_argument('--size', type=parse_size, default=(240, 320), metavar='HxW')
    parser.add_argument('--seed', type=at_least(0), default=0)
    options = vars(parser.parse_args(argv))
    try:
        drawn = make_demo_data(**options)
    except OSError as error:
        sys.exit(f'make_demo_data: error: {error}')
    out = options['out']
    print(f'drew {out}' if drawn else f'{out} is already there')


if __name__ == '__main__':
    main()
