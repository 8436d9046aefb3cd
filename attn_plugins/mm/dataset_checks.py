"""Checks of data sets: what can be learned from is said apart from what cannot.

What no model can learn from raises a :class:`DataError` that names the file. What the
hosts leave out without a word, such as a box without size, is counted.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
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


class DataError(ValueError):
    """Data that no model can learn from."""


def closest(name: object, names: Iterable[object]) -> str:
    """Returns ``, did you mean 'x'?`` if one of the names is much like ``name``."""
    found = difflib.get_close_matches(str(name), map(str, names), n=1, cutoff=0.75)
    return f', did you mean {found[0]!r}?' if found else ''


def check_whole(path: str | os.PathLike) -> None:
    """Checks that a JPEG or PNG file has its end: decoders fill up what is missing.

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
        if start.startswith(head) and end not in rest:
            raise DataError(
                f'{path} is cut off: a {kind} without its end, after {size} bytes. '
                'Copy it again or leave it out'
            )


def check_image(path: str | os.PathLike) -> tuple[int, int]:
    """Checks by its head and its end that a file is a whole image.

    Returns:
        Height and width, as the image is shown.

    Raises:
        DataError: If it is empty, no image, or cut off.
    """
    check_whole(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            # OpenCV turns no other kind.
            exif = image.getexif() if image.format == 'JPEG' else {}
            turned = exif.get(ORIENTATION) in TURNED
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f'{path} is not an image: it is damaged or of another kind than its name '
            f'says ({type(error).__name__})'
        ) from None
    return (width, height) if turned else (height, width)


def check_label_map(
    path: str | os.PathLike, image_size: tuple[int, int] | None = None
) -> None:
    """Checks that a file is a label map: 8-bit, one channel, of its image's size.

    Raises:
        DataError: If not.
    """
    size = check_image(path)
    with Image.open(path) as image:
        mode = image.mode
    if mode not in LABEL_MODES:
        raise DataError(
            f'{path} is no label map: expected an 8-bit PNG of one channel whose '
            f'values are class indices, got mode {mode!r} (colours or 16 bit)'
        )
    if image_size and size != tuple(image_size):
        raise DataError(
            f'{path} is {size[0]} x {size[1]} (height x width) and its image '
            f'{image_size[0]} x {image_size[1]}: they must be of one size'
        )


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
) -> Counter[str]:
    """Checks annotations in COCO's format.

    Args:
        path: The file.
        classes: Names of the classes of the config; None for those of the file.
        images: Folder of the images; None if they are elsewhere.

    Returns:
        How many 'images' and 'annotations' there are, and how many of them mmdet leaves
        out, by reason.

    Raises:
        DataError: If the file is broken, if its ids or its class names do not fit, if
            images are missing, or if nothing is left to learn from.
    """
    content = read_coco(path)

    def refuse(problem: str) -> None:
        raise DataError(f'{path}: {problem}')

    for part, keys in (
        ('images', ('id', 'file_name', 'height', 'width')),
        ('categories', ('id', 'name')),
        ('annotations', ('id', 'image_id', 'category_id', 'bbox', 'area')),
    ):
        for index, item in enumerate(content[part]):
            lacking = [key for key in keys if key not in item]
            if lacking:
                refuse(f'{part}[{index}] has no {", ".join(lacking)}')
        repeated = _repeated(item['id'] for item in content[part])
        if repeated is not None:
            refuse(f'the id {repeated!r} is there twice in {part}; ids must differ')

    names = {item['id']: item['name'] for item in content['categories']}
    _check_classes(path, list(names.values()), classes)
    known = {item['id']: item for item in content['images']}
    if images is not None:
        _check_files(path, [item['file_name'] for item in known.values()], images)

    counts = Counter(images=len(known), annotations=len(content['annotations']))
    learned = 0
    for item in content['annotations']:
        if item['category_id'] not in names:
            refuse(
                f'annotation {item["id"]} is of the category {item["category_id"]!r}, '
                f'which is not in categories {sorted(names, key=str)[:9]}'
            )
        reason = _left_out(item, known.get(item['image_id']), path)
        if not reason and classes and names[item['category_id']] not in classes:
            reason = 'of classes that the config does not name'
        if reason:
            counts[reason] += 1
        else:
            learned += 1
    if not learned:
        refuse(
            'nothing to learn from: none of its '
            f'{len(content["annotations"])} annotations is left ({dict(counts)})'
        )
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


def _left_out(item: dict, image: dict | None, path: str | os.PathLike) -> str:
    """Says why mmdet leaves out an annotation; nothing if it does not."""
    box = item['bbox']
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(n, int | float) and math.isfinite(n) for n in box)
    ):
        raise DataError(
            f'{path}: annotation {item["id"]} has the box {box!r}, expected four '
            'finite numbers: x, y, width, height'
        )
    if image is None:
        return 'of images that are not in the file'
    x, y, width, height = box
    if width < 1 or height < 1 or item['area'] <= 0:
        return 'boxes without size'
    if x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
        return 'boxes outside of the image'
    segmentation = item.get('segmentation')
    if isinstance(segmentation, list) and segmentation:
        whole = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        if not whole:
            return 'polygons of less than three points'
    return ''


def check_image_list(
    path: str | os.PathLike, folder: str | os.PathLike, num_classes: int | None
) -> int:
    """Checks a list of classified images: ``NAME LABEL`` in each line.

    Args:
        path: The list.
        folder: Where the images are.
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
    _check_files(path, names, folder)
    return len(names)
