"""Annotations in COCO's format: what mmdet leaves out of them, by pycocotools."""

import contextlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Sequence

from ...spelling import closest
from ..engine.errors import DataError


def check_coco(
    path: str | os.PathLike,
    classes: Sequence[str] | None = None,
    *,
    with_mask: bool = True,
    may_be_empty: bool = False,
) -> tuple[list[str], str]:
    """Checks annotations in COCO's format.

    Args:
        path: The file.
        classes: Names of the classes of the config; None for those of the file.
        with_mask: Whether masks are read.
        may_be_empty: Whether images without annotations are kept (``filter_cfg``).

    Returns:
        The names of the images, and one line that says how many annotations there are
        and how many of them mmdet leaves out, by reason.

    Raises:
        DataError: If the file is broken, if its ids or its class names do not fit, or
            if nothing is left to learn from.
    """
    from pycocotools.coco import COCO  # only mmdet needs it

    try:
        with contextlib.redirect_stdout(None):
            coco = COCO(str(path))
        parts = {key: coco.dataset[key] for key in ('images', 'categories')}
        # Files of test images have none.
        none = dict(annotations=[]) if may_be_empty else {}
        annotations = {**none, **coco.dataset}['annotations']
        names = {item['id']: item['name'] for item in parts['categories']}
        images = [item['file_name'] for item in parts['images']]
        kept = {key for key, name in names.items() if not classes or name in classes}
        reasons = [_left_out(a, coco.imgs, kept, with_mask) for a in annotations]
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'{path} cannot be read as annotations in COCO format '
            f'({type(error).__name__}: {error}): it is cut off, or some image, '
            'category or annotation lacks what it needs'
        ) from error
    for part, index in (('images', coco.imgs), ('categories', coco.cats)):
        if len(index) < len(parts[part]):
            raise DataError(f'{path}: ids in {part} are there twice; ids must differ')
    if any(a['category_id'] not in names for a in annotations):
        raise DataError(f'{path}: annotations have categories that it does not list')
    _check_classes(path, list(names.values()), classes)
    counts = Counter(filter(None, reasons))
    if counts.total() == len(annotations) and not may_be_empty:
        raise DataError(
            f'{path}: nothing to learn from: none of its {len(annotations)} '
            f'annotations is left ({dict(counts)})'
        )
    left_out = ', '.join(f'{count} {reason}' for reason, count in counts.items())
    return images, (
        f'{path}: {len(annotations)} annotations of {len(images)} images, '
        f'left out: {left_out or "none"}'
    )


def _left_out(
    annotation: dict, images: dict[int, dict], kept: set[int], with_mask: bool
) -> str:
    """Says why mmdet leaves out an annotation; nothing if it does not."""
    x, y, width, height = annotation['bbox']
    area, mask = annotation['area'], annotation.get('segmentation')
    if not math.isfinite(x + y + width + height + area):
        raise ValueError(f'a number of annotation {annotation["id"]} is not finite')
    image = images.get(annotation['image_id'])
    if image is None:
        return 'of images that are not in the file'
    if width < 1 or height < 1 or area <= 0:
        return 'boxes without size'
    if x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
        return 'boxes outside of the image'
    polygons = mask if with_mask and isinstance(mask, list) else []
    if not all(map(math.isfinite, itertools.chain(*polygons))):
        raise ValueError(f'a polygon of annotation {annotation["id"]} is not finite')
    if polygons and not any(len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        return 'polygons of less than three points'
    if annotation['category_id'] not in kept:
        return 'of classes that the config does not name'
    return ''


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
