"""Where the configs expect their data sets, and what of them is there.

``python -m attn_plugins doctor --data [ROOT]`` prints it; docs/train.md says how to get
what is missing.
"""

from itertools import islice
from pathlib import Path

from .tables import print_table

# Folder below the root -> what is in it, how many there are (None: one or more), and
# the configs that want it, if not all of the data set do.
LAYOUT: dict[str, dict[str, tuple[int | None, str]]] = {
    'ade/ADEChallengeData2016': {
        'images/training/*.jpg': (20210, ''),
        'images/validation/*.jpg': (2000, ''),
        'annotations/training/*.png': (20210, ''),
        'annotations/validation/*.png': (2000, ''),
    },
    'cityscapes': {
        'leftImg8bit/train/*/*.png': (2975, ''),
        'leftImg8bit/val/*/*.png': (500, ''),
        'gtFine/train/*/*_labelTrainIds.png': (2975, ''),
        'gtFine/val/*/*_labelTrainIds.png': (500, ''),
    },
    'VOCdevkit/VOC2012': {
        'JPEGImages/*.jpg': (17125, ''),
        'SegmentationClass/*.png': (2913, ''),
        'ImageSets/Segmentation/train.txt': (1, ''),
        'ImageSets/Segmentation/val.txt': (1, ''),
        'ImageSets/Segmentation/trainval.txt': (1, '*_voc_trainval'),
        'ImageSets/Segmentation/aug.txt': (1, 'all but *_voc_trainval'),
        'SegmentationClassAug/*.png': (None, 'all but *_voc_trainval'),
    },
    'coco': {
        'train2017/*.jpg': (118287, ''),
        'val2017/*.jpg': (5000, ''),
        'annotations/instances_train2017.json': (1, ''),
        'annotations/instances_val2017.json': (1, ''),
        'stuffthingmaps/train2017/*.png': (118287, 'htc_*'),
    },
    'imagenet': {'train/*/': (1000, ''), 'val/*/': (1000, '')},
    'cifar100': {'cifar-100-python/train': (1, ''), 'cifar-100-python/test': (1, '')},
    'camvid': {
        'train/*.jpg': (367, ''),
        'trainannot/*': (367, ''),
        'val/*.jpg': (101, ''),
        'valannot/*': (101, ''),
        'test/*.jpg': (233, ''),
        'testannot/*': (233, ''),
    },
}


def state(folder: Path, pattern: str, count: int | None) -> str:
    """Tells in one word, or as a count, how many of the files are there."""
    # One more than there should be is enough to see that there are others.
    limit = 1 if count is None else count + 1
    found = sum(1 for _ in islice(folder.glob(pattern), limit))
    if found == 0:
        return 'MISSING'
    return 'found' if count in (None, 1, found) else f'{found} of {count}'


def print_datasets(root: str | Path) -> None:
    """Prints all data sets below a root."""
    rows = [
        (state(Path(root, folder), pattern, count), f'{folder}/{pattern}', only_for)
        for folder, parts in LAYOUT.items()
        for pattern, (count, only_for) in parts.items()
    ]
    print_table(('state', f'files below {root}', 'only for'), rows)
    print('How to get them: docs/train.md#data-sets')
