"""Checks of data sets: what can be learned from is said apart from what cannot.

What no model can learn from raises a :class:`DataError` that names the file. What the
hosts leave out without a word, such as a box without size, is counted.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

# How files begin, and how whole ones end; what was cut off in copying does not.
ENDS = {
    'JPEG': (b'\xff\xd8\xff', b'\xff\xd9'),
    'PNG': (b'\x89PNG', b'IEND\xaeB`\x82'),
}
TURNED = range(5, 9)  # EXIF orientations that swap height and width
ORIENTATION = 0x0112
LABEL_MODES = ('1', 'L', 'P')  # 8-bit, one channel
COCO_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}


class DataError(ValueError):
    """Data that no model can learn from."""


def closest(name: object, names: Iterable[object]) -> str:
    """Returns ``, did you mean 'x'?`` if one of the names is much like ``name``."""
    found = difflib.get_close_matches(str(name), map(str, names), n=1, cutoff=0.75)
    return f', did you mean {found[0]!r}?' if found else ''


def check_whole(path: str | os.PathLike) -> None:
    """Checks that a JPEG or PNG file is not cut off: decoders fill up what is missing.

    Raises:
        DataError: If it is empty or cut off.
    """
    with open(path, 'rb') as file:
        start = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))  # cameras append data of their own
        rest = file.read()
    if size == 0:
        raise DataError(f'{path} is empty (0 bytes): copy it again or leave it out')
    for kind, (head, end) in ENDS.items():
        if start.startswith(head) and end not in rest and _is_cut_off(path, kind):
            raise DataError(
                f'{path} is cut off: a {kind} without its end, after {size} bytes. '
                'Copy it again or leave it out'
            )


def _is_cut_off(path: str | os.PathLike, kind: str) -> bool:
    """Decodes a file without an end: it may be further up, or all that is missing."""
    content = Path(path).read_bytes()
    with _any_size():
        try:
            Image.open(io.BytesIO(content)).load()
            return False
        except (OSError, SyntaxError, ValueError):
            if kind != 'JPEG':
                return True
        try:
            with Image.open(io.BytesIO(content + ENDS[kind][1])) as image:
                # What is missing is painted in one colour, down to the last row.
                last = np.asarray(image)[-8:]
        except (OSError, SyntaxError, ValueError):
            return True
    return bool((last == last[-1, -1]).all())


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lifts PIL's limit of pixels, which is none of OpenCV's."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def check_image(path: str | os.PathLike, turned: bool = True) -> tuple[int, int]:
    """Checks by its head and its end that a file is a whole image.

    Args:
        path: The file.
        turned: Whether it is going to be turned as its EXIF data says.

    Returns:
        Height and width, as the image is read.

    Raises:
        DataError: If it is empty, no image, or cut off.
    """
    check_whole(path)
    with _opened(path) as image:
        width, height = image.size
        # OpenCV turns no other kind.
        exif = image.getexif() if turned and image.format == 'JPEG' else {}
        turned = exif.get(ORIENTATION) in TURNED
    return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    try:
        with _any_size(), Image.open(path) as image:
            yield image
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f'{path} is not an image: it is damaged or of another kind than its name '
            f'says ({type(error).__name__})'
        ) from None


def check_label_map(
    path: str | os.PathLike, image_size: tuple[int, int] | None = None
) -> None:
    """Checks that a file is a label map: one channel, 8-bit values, its image's size.

    Raises:
        DataError: If not.
    """
    check_whole(path)
    with _opened(path) as image:
        mode, size = image.mode, image.size[::-1]
        colours = len(image.getbands()) > 1
        # Hosts cut wider numbers down to 8 bit: 300 becomes 44.
        wide = not colours and mode not in LABEL_MODES
        top = np.asarray(image).max() if wide else 0
    if colours:
        raise DataError(
            f'{path} is no label map: expected a PNG of one channel whose values are '
            f'class indices, got colours (mode {mode!r})'
        )
    if top > 255:
        raise DataError(
            f'{path} is no label map: expected class indices up to 255, got {top} '
            f'(mode {mode!r})'
        )
    if image_size and size != tuple(image_size):
        raise DataError(
            f'{path} is {size[0]} x {size[1]} (height x width) and its image '
            f'{image_size[0]} x {image_size[1]}: they must be of one size'
        )


def label_count(num_classes: int, out_channels: int | None) -> int:
    """Returns how many labels a head tells apart: one output has two of them."""
    return 2 if num_classes == out_channels == 1 else num_classes


def check_labels(
    labels: np.ndarray, num_classes: int, ignore_index: int, path: str
) -> None:
    """Checks that all labels are classes, or ignored.

    Args:
        labels: Integers of any shape.
        num_classes: Classes of the model.
        ignore_index: The label that is not learned from.
        path: Where they come from.

    Raises:
        DataError: If one is neither.
    """
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        values, counts = np.unique(labels[wrong], return_counts=True)
        raise DataError(
            f'{path} has the label {values[0]} at {counts[0]} places, and the model '
            f'has num_classes={num_classes} (0 to {num_classes - 1}, '
            f'ignore_index={ignore_index}): set num_classes, ignore_index or '
            'reduce_zero_label in the config, or mend the file'
        )


def read_coco(path: str | os.PathLike) -> dict:
    """Reads annotations in COCO's format.

    Raises:
        DataError: If the file is empty, cut off or no such annotations.
    """
    text = Path(path).read_bytes()
    if not text.strip():
        raise DataError(f'{path} is empty: expected annotations in COCO format')
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(
            f'{path} is not JSON, or is cut off: {error}. Copy it again'
        ) from None
    parts = ('images', 'annotations', 'categories')
    kinds = content if isinstance(content, dict) else {}
    missing = [part for part in parts if not isinstance(kinds.get(part), list)]
    if missing:
        raise DataError(
            f'{path} has no list of {", ".join(missing)}: annotations in COCO format '
            f'are an object with {", ".join(parts)}'
        )
    return content


def check_coco(
    path: str | os.PathLike,
    classes: Sequence[str] | None = None,
    images: str | os.PathLike | None = None,
    with_mask: bool = True,
    may_be_empty: bool = False,
) -> Counter[str]:
    """Checks annotations in COCO's format.

    Args:
        path: The file.
        classes: Names of the classes of the config; None for those of the file.
        images: Folder of the images; None if they are elsewhere.
        with_mask: Whether masks are read.
        may_be_empty: Whether images without annotations are kept (``filter_cfg``).

    Returns:
        How many 'images' and 'annotations' there are, and how many of them mmdet leaves
        out, by reason.

    Raises:
        DataError: If the file is broken, if its ids or its class names do not fit, if
            images are missing, or if nothing is left to learn from.
    """
    content = read_coco(path)
    try:
        _check_parts(path, content)
        names = {item['id']: item['name'] for item in content['categories']}
        _check_classes(path, list(names.values()), classes)
        if images is not None:
            _check_files(path, [i['file_name'] for i in content['images']], images)
        counts = _count(path, content, names, classes, with_mask)
    except TypeError as error:
        raise DataError(f'{path} has a value of a wrong kind: {error}') from error
    total = len(content['annotations'])
    if sum(counts.values()) == total and not may_be_empty:
        raise DataError(
            f'{path}: nothing to learn from: none of its {total} annotations is left '
            f'({dict(counts)})'
        )
    return Counter(images=len(content['images']), annotations=total, **counts)


def _check_parts(path: str | os.PathLike, content: dict) -> None:
    """Checks that all items have what they must have, and ids of their own."""

    def refuse(problem: str) -> None:
        raise DataError(f'{path}: {problem}')

    for part, keys in COCO_KEYS.items():
        for index, item in enumerate(content[part]):
            if not isinstance(item, dict):
                refuse(f'{part}[{index}] is {item!r}, expected an object')
            lacking = [key for key in keys if key not in item]
            if lacking:
                refuse(f'{part}[{index}] has no {", ".join(lacking)}')
        repeated = _repeated(item['id'] for item in content[part])
        if repeated is not None:
            refuse(f'the id {repeated!r} is there twice in {part}; ids must differ')
    for item in content['images']:
        if not isinstance(item['file_name'], str):
            refuse(f'image {item["id"]} has the file_name {item["file_name"]!r}')
        height, width = item['height'], item['width']
        if not _are_finite((height, width)):
            refuse(
                f'image {item["id"]} has the height {height!r} and the width '
                f'{width!r}, expected numbers'
            )


def _are_finite(values: Iterable[Any]) -> bool:
    try:
        return math.isfinite(sum(values))  # far faster than one by one
    except (OverflowError, TypeError):
        return False


def _count(
    path: str | os.PathLike,
    content: dict,
    names: dict,
    classes: Sequence[str] | None,
    with_mask: bool,
) -> Counter[str]:
    """Counts the annotations that mmdet leaves out, by reason."""
    counts: Counter[str] = Counter()
    images = {item['id']: item for item in content['images']}
    for item in content['annotations']:
        category = item['category_id']
        if category not in names:
            raise DataError(
                f'{path}: annotation {item["id"]} is of the category {category!r}, '
                f'which is not in categories {sorted(names, key=str)[:9]}'
            )
        reason = _box_left_out(item, images.get(item['image_id']), path)
        if not reason and with_mask:
            reason = _mask_left_out(item, path)
        if not reason and classes and names[category] not in classes:
            reason = 'of classes that the config does not name'
        if reason:
            counts[reason] += 1
    return counts


def _repeated(items: Iterable[Any]) -> Any:
    return next((item for item, n in Counter(items).items() if n > 1), None)


def _check_classes(
    path: str | os.PathLike, names: list[str], classes: Sequence[str] | None
) -> None:
    """mmdet numbers the categories that it finds, in the order of the file."""
    if not classes:
        return
    for name in classes:
        if name not in names:
            raise DataError(
                f'{path} has no category {name!r}{closest(name, names)} The classes of '
                f'the config must be names of its categories: {", ".join(names[:9])}'
            )
    ordered = [name for name in names if name in classes]
    if ordered != list(classes):
        raise DataError(
            f'{path} has its categories in the order {", ".join(ordered[:9])}, the '
            f'config has {", ".join(classes[:9])}: mmdet numbers them as the file '
            'does, so give classes in the order of the file'
        )


def _check_files(
    path: str | os.PathLike, names: Sequence[str], folder: str | os.PathLike
) -> None:
    listed: dict[str, set[str]] = {}
    missing = []
    for name in names:
        where, _, file = os.path.join(folder, name).rpartition(os.sep)
        if where not in listed:  # far faster than to ask for each file
            listed[where] = set(os.listdir(where)) if os.path.isdir(where) else set()
        if file not in listed[where]:
            missing.append(name)
    if missing:
        raise DataError(
            f'{path} names {len(missing)} of {len(names)} images that are not in '
            f'{folder}, the first is {missing[0]}'
        )


def _box_left_out(item: dict, image: dict | None, path: str | os.PathLike) -> str:
    """Says why mmdet leaves out an annotation; nothing if it does not."""
    box = item['bbox']
    if not isinstance(box, list) or len(box) != 4 or not _are_finite(box):
        raise DataError(
            f'{path}: annotation {item["id"]} has the box {box!r}, expected four '
            'finite numbers: x, y, width, height'
        )
    if not _are_finite((item['area'],)):
        raise DataError(
            f'{path}: annotation {item["id"]} has the area {item["area"]!r}, expected '
            'a finite number'
        )
    if image is None:
        return 'of images that are not in the file'
    x, y, width, height = box
    if width < 1 or height < 1 or item['area'] <= 0:
        return 'boxes without size'
    if x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
        return 'boxes outside of the image'
    return ''


def _mask_left_out(item: dict, path: str | os.PathLike) -> str:
    """The same of its mask: polygons, or run lengths."""
    mask = item.get('segmentation')
    whole = True
    if isinstance(mask, list) and mask:
        whole = all(isinstance(p, list) and _are_finite(p) for p in mask)
        if whole and not any(len(p) >= 6 and len(p) % 2 == 0 for p in mask):
            return 'polygons of less than three points'
    elif isinstance(mask, dict):
        counts, size = mask.get('counts'), mask.get('size')
        if counts is None or size is None:
            return 'masks without counts or size'
        if isinstance(counts, list):
            whole = sum(counts) == math.prod(size)
        else:
            whole = re.fullmatch('[0-o]+', counts) is not None
    if not whole:
        raise DataError(
            f'{path}: annotation {item["id"]} has the segmentation '
            f'{str(mask)[:60]}, expected lists of finite numbers x, y, x, y, ..., or '
            'run lengths that add up to their size'
        )
    return ''


def check_image_list(
    path: str | os.PathLike, folder: str | os.PathLike | None, num_classes: int | None
) -> int:
    """Checks a list of classified images: ``NAME LABEL`` in each line.

    Args:
        path: The list.
        folder: Where the images are; None if they are elsewhere.
        num_classes: Classes of the model; None if it does not say.

    Returns:
        How many images there are.

    Raises:
        DataError: If the list is empty, or a line has no label, one that is no class,
            or an image that is not there.
    """
    lines = Path(path).read_text(errors='replace').splitlines()
    names = []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.isdecimal():
            raise DataError(
                f'{path}, line {number}: expected the name of an image and the index '
                f'of its class, got {line[:60]!r}'
            )
        if num_classes is not None and int(label) >= num_classes:
            raise DataError(
                f'{path}, line {number}: {name} has the label {label}, and the model '
                f'has num_classes={num_classes} (0 to {num_classes - 1})'
            )
        names.append(name)
    if not names:
        raise DataError(f'{path} is empty: expected one image and its label a line')
    if folder is not None:
        _check_files(path, names, folder)
    return len(names)
