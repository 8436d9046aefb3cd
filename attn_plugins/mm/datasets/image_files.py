"""Whether files are whole images, and label maps that belong to them; by Pillow.

OpenCV paints what is missing of an image grey and says nothing, and the frameworks
resize a label map of another size along with its image.
"""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..engine.errors import DataError

# How files begin, and how whole ones end.
ENDS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}
ORIENTATION, TURNED = 0x0112, range(5, 9)  # EXIF: height and width are swapped


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Opens an image of any size; Pillow's limit of pixels is none of OpenCV's."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError | FileNotFoundError):
            raise
        kind = 'not an image'
        if not isinstance(error, UnidentifiedImageError):
            kind = 'cut off or damaged'
        size = os.path.getsize(path)
        raise DataError(
            f'{path} is {kind} ({size} bytes): copy it again or leave it out'
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def check_whole(path: str | os.PathLike) -> None:
    """Checks that an image is not cut off.

    A JPEG or PNG file that has its end is not decoded, which makes this fast.

    Raises:
        DataError: If it is empty, no image, or cut off.
        FileNotFoundError: If it is not there.
    """
    with open(path, 'rb') as file:
        start = file.read(4)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))  # cameras append data
        rest = file.read()
    if not any(start.startswith(head) and ENDS[head] in rest for head in ENDS):
        with _opened(path) as image:
            image.load()


def image_sizes(path: str | os.PathLike) -> set[tuple[int, int]]:
    """Returns height and width of a whole image, as it is stored and as EXIF turns it.

    Raises:
        DataError: As of :func:`check_whole`.
    """
    check_whole(path)
    with _opened(path) as image:
        # OpenCV turns no other kind.
        exif = image.getexif() if image.format == 'JPEG' else {}
        turned = exif.get(ORIENTATION) in TURNED
        return {image.size[::-1], image.size if turned else image.size[::-1]}


def check_label_map(
    path: str | os.PathLike, sizes: set[tuple[int, int]] | None = None
) -> None:
    """Checks that a file is a label map: one channel, values up to 255, right size.

    Args:
        path: The file.
        sizes: Heights and widths that it may have.

    Raises:
        DataError: If not.
    """
    check_whole(path)
    with _opened(path) as image:
        mode, size = image.mode, image.size[::-1]
        # The frameworks cut wider numbers down to 8 bit: 300 becomes 44.
        top = np.asarray(image).max() if mode not in ('1', 'L', 'P') else 0
        if len(image.getbands()) > 1 or top > 255:
            raise DataError(
                f'{path} is no label map: expected a PNG of one channel whose values '
                f'are class indices up to 255, got mode {mode!r}, values up to {top}'
            )
    if sizes and size not in sizes:
        (height, width), *_ = sizes
        raise DataError(
            f'{path} is {size[0]} x {size[1]} (height x width) and its image '
            f'{height} x {width}: they must be of one size'
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
            'reduce_zero_label in the config, or correct the file'
        )
