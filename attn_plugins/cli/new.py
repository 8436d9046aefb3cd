"""Writes a short config that trains on your own data.

python -m attn_plugins new photos/ --out my_config.py         # images with label maps
python -m attn_plugins new VOC2012/ --out my_config.py        # label maps, or XML boxes
python -m attn_plugins new instances.json --out my_config.py  # COCO's format
python -m attn_plugins new flowers/ --out my_config.py        # a folder for each class

Label maps are 8-bit, single-channel PNG of class indices from 0, in a folder called
labels, masks, annotations or the like; 255 is void. Names of classes come from
classes.txt or class_names.txt (one a line), labelmap.txt or classes.json near them,
COCO's categories, or the folders. Folders and files named train, and val or test
(training, images_val, test2017), are taken as such, and so are VOC's lists. Where there
are none, every tenth image, drawn at random, is for validation, and lists are written
beside the config. Your data stay untouched.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import pprint
import random
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ..mm.apis.launch import LaunchError, read_config
from ..mm.apis.prediction import IMAGE_SUFFIXES

METHODS = {'ea': 'External attention', 'lesa': 'LESA', 'gsa': 'GSA'}
TASKS = ('segmentation', 'detection', 'classification')
WEIGHTS = 'torchvision://resnet50'
WEIGHTS_V1C = 'open-mmlab://resnet50_v1c'  # mmseg's own ResNet has a deeper stem
LABEL_FOLDER = re.compile(r'mask|label|annot|seg|class|\bgt', re.I)
# A word of a path: valid, images_train, val2017 and CamVid's trainannot; no trains.
PART = re.compile(
    r'(?<![a-z])(train|val|test)(ing|id|idation)?(?=annot|ima?ge?|label|mask|[^a-z]|$)'
)
# Indices in the label maps of PASCAL VOC.
VOC_CLASSES = [
    'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat',
    'chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant',
    'sheep', 'sofa', 'train', 'tvmonitor',
]  # fmt: skip
CLASS_FILES = ('classes.txt', 'class_names.txt', 'labelmap.txt', 'classes.json')
# What mmdet reads of each item of a COCO file.
COCO_FIELDS = {
    'images': {'id', 'file_name', 'width', 'height'},
    'annotations': {'id', 'image_id', 'category_id', 'bbox', 'area'},
    'categories': {'id', 'name'},
}

HEAD = """\
# {title}, over a stock config of {framework}; from {start}.
# Written by `attn-plugins new`: {train} images to train on, {val} to validate on.
_base_ = '{framework}::{base}.py'
custom_imports = dict(imports=['attn_plugins'])
classes = {classes}
data_root = {root!r}
common = dict(data_root=data_root, metainfo=dict(classes=classes))
train = dict({train_part})
val = dict({val_part})
"""
SEGMENTATION = """\
void = {void}  # index of pixels that do not count
scale = {scale}  # width and height that images are resized to fit in
crop_size = {crop}  # height and width of what the network is trained with
max_iters = {max_iters}  # of {batch} images: 50 times through the data, 1000 to 40000
val_interval = max_iters // 10

load, labels = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
resize = dict(type='Resize', scale=scale, keep_ratio=True)
pack = dict(type='PackSegInputs')
zoom = dict(resize, type='RandomResize', ratio_range=(0.5, 2.0))
crop = dict(
    type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75, ignore_index=void
)
flip, colours = dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion')
train_pipeline = [load, labels, zoom, crop, flip, colours, pack]
dataset = dict(common, _delete_=True, type='BaseSegDataset', ignore_index=void)
train_dataloader = dict(
    batch_size={batch}, dataset=dict(dataset, pipeline=train_pipeline, **train)
)
test_pipeline = [load, resize, labels, pack]
val_dataloader = dict(dataset=dict(dataset, pipeline=test_pipeline, **val))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(ignore_index=void)
model = dict(
    pretrained={weights!r},
    data_preprocessor=dict(size=crop_size, seg_pad_val=void),
{backbone}    decode_head=dict({head}num_classes=len(classes), ignore_index=void),
    auxiliary_head=dict(num_classes=len(classes), ignore_index=void),
)
adamw = dict(_delete_=True, type='AdamW', lr={lr}, weight_decay=0.01)
optim_wrapper = dict(optimizer=adamw)
poly = dict(type='PolyLR', eta_min=1e-6, power=0.9, end=max_iters, by_epoch=False)
param_scheduler = [poly]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
saving = dict(interval=val_interval, max_keep_ckpts=1, save_best='mIoU')
default_hooks = dict(logger=dict(interval=10), checkpoint=saving)
"""
DETECTION = """\
scale = {scale}  # width and height that images are resized to fit in
epochs = {epochs}  # 12 from 850 images on, up to 100 for fewer

load = dict(type='LoadImageFromFile')
labels = dict(type='LoadAnnotations', with_bbox=True, with_mask={with_mask})
resize = dict(type='Resize', scale=scale, keep_ratio=True)
flip, pack = dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_dataloader = dict(
    batch_size=2,
    dataset=dict(common, pipeline=[load, labels, resize, flip, pack], **train),
)
pipeline = [load, resize, labels, dict(pack, meta_keys=meta_keys)]
val_dataloader = dict(dataset=dict(common, pipeline=pipeline, **val))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(ann_file={files[1]!r})
heads = dict(num_classes=len(classes))
model = dict(
{backbone}    roi_head=dict({heads}),{neck}
)
optim_wrapper = dict(optimizer=dict(lr=0.0025))  # for 2 images; stock: 0.02 for 16
warmup = dict(type='LinearLR', start_factor=0.001, by_epoch=False, end={warmup})
milestones = [epochs * 2 // 3, epochs * 11 // 12]
steps = dict(type='MultiStepLR', end=epochs, milestones=milestones)
param_scheduler = [warmup, steps]
train_cfg = dict(max_epochs=epochs)
saving = dict(max_keep_ckpts=1, save_best='auto')
default_hooks = dict(logger=dict(interval=10), checkpoint=saving)
"""
CLASSIFICATION = """\
side = {side}  # of the square that the network sees

load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
crop = dict(type='RandomResizedCrop', scale=side)
resize = dict(type='ResizeEdge', scale=side * 8 // 7, edge='short')
centre = dict(type='CenterCrop', crop_size=side)
flip = dict(type='RandomFlip', prob=0.5)
dataset = dict(common, _delete_=True, type='CustomDataset')
train_dataloader = dict(
    batch_size={batch},
    dataset=dict(dataset, pipeline=[load, crop, flip, pack], **train),
)
val_dataloader = dict(
    dataset=dict(dataset, pipeline=[load, resize, centre, pack], **val)
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(topk=(1,))
data_preprocessor = dict(num_classes=len(classes))
model = dict(
{backbone}    head=dict(num_classes=len(classes), topk=(1,)),{neck}
)
# The stock schedule, 100 epochs, with its learning rate of 0.1 for 256 images.
optim_wrapper = dict(optimizer=dict(lr=0.1 * {batch} / 256))
saving = dict(max_keep_ckpts=1, save_best='auto')
default_hooks = dict(logger=dict(interval=10), checkpoint=saving)
"""
# What external attention adds; LESA and GSA are another backbone.
EA_HEAD = """
        _delete_=True,
        type='EAHead',
        in_channels=2048,
        in_index=3,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        """
EA_NECK = """
    neck=[
        dict(type='EANeck', in_channels={channels}),
        {next},
    ],"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', type=Path, help='a folder, or a COCO JSON file')
    parser.add_argument('--out', type=Path, required=True, help='config to write')
    parser.add_argument(
        '--method', choices=METHODS, default='ea', help='kind of attention; ea'
    )
    parser.add_argument('--task', choices=TASKS, help='if the data are for several')
    parser.add_argument('--void', type=int, metavar='N', help='in label maps; 255')
    parser.add_argument(
        '--pretrained',
        action='store_true',
        help="start from ImageNet's weights, which are downloaded, not random ones",
    )
    parser.add_argument('--force', action='store_true', help='overwrite what is there')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.suffix != '.py':
        raise LaunchError(f'--out must end in .py, got {args.out}')
    found = describe(args)
    classes, (train, val) = found['classes'], found['counts']
    lines = pprint.pformat(tuple(classes), width=74, compact=True)
    found['classes'] = lines.replace('\n', '\n          ')
    files, texts = found['files'], found['texts']
    if texts:
        suffix = '.json' if found['framework'] == 'mmdet' else '.txt'
        names = [f'{args.out.stem}_{name}{suffix}' for name in ('train', 'val')]
        files = [args.out.with_name(name) for name in names]
    found['files'] = [str(file and file.resolve()) for file in files]
    folders = [p.resolve() for prefix in found['folders'] for p in prefix.values()]
    root = os.path.commonpath(folders)
    options = found.get('options', [{}, {}])
    parts = zip(found['files'], found['folders'], options, strict=True)
    train_part, val_part = (write_part(root, *part) for part in parts)
    text = (HEAD + found['text']).format(
        title=METHODS[args.method],
        start="ImageNet's weights" if args.pretrained else 'random weights',
        train=train,
        val=val,
        root=root,
        train_part=train_part,
        val_part=val_part,
        backbone=backbone(args, found),
        **found,
    )
    written = {**dict(zip(files, texts, strict=False)), args.out: text}
    for file in filter(Path.exists, written):
        if file.samefile(args.data):
            raise LaunchError(f'{file} holds the data: give --out another name')
        if not args.force:
            raise LaunchError(f'{file} is there already: --force overwrites it')
    with tempfile.TemporaryDirectory() as folder:  # nothing is left of what fails
        draft = Path(folder, args.out.name)
        draft.write_text(text, encoding='utf-8')
        read_config(str(draft))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for file, content in written.items():
        file.write_text(content, encoding='utf-8')
    shown = ', '.join(classes[:5]) + ', ...' * (len(classes) > 5)
    print(
        f'wrote {args.out}: {train} images to train on, {val} to validate on, '
        f'{len(classes)} class{"es" * (len(classes) > 1)}: {shown}'
    )
    if not args.pretrained:
        print("it starts from random weights; --pretrained takes ImageNet's")
    in_checkout = Path('tools/train.py').is_file()
    tool = 'python tools/train.py' if in_checkout else f'mim train {found["framework"]}'
    print(f'train it:    {tool} {args.out}')
    print(f'look at it:  python -m attn_plugins report work_dirs/{args.out.stem}')


def backbone(args: argparse.Namespace, found: dict) -> str:
    """Writes the options of the backbone: type and weights."""
    options = []
    if args.method != 'ea':
        options.append(f"type='{args.method.upper()}ResNet'")
        options.append(f'rel_pos_input_size={found["size"]}')
    if found['framework'] != 'mmseg' and args.pretrained:
        options.append(f"init_cfg=dict(type='Pretrained', checkpoint={WEIGHTS!r})")
    elif found['framework'] == 'mmdet':
        options.append('init_cfg=None')
    # Norms without ImageNet's statistics have to learn theirs.
    if found['framework'] == 'mmdet' and (args.method != 'ea' or not args.pretrained):
        options += ['frozen_stages=-1', 'norm_eval=False']
    lines = ''.join(f'\n        {option},' for option in options)
    return f'    backbone=dict({lines}\n    ),\n' if options else ''


def describe(args: argparse.Namespace) -> dict:
    """Finds out what kind of data there are, and what the config has to say."""
    root, task = args.data, args.task
    if root.is_file() and root.suffix == '.json':
        return detection(args)
    if not root.is_dir():
        raise LaunchError(f'there is no folder, and no COCO JSON file, {root}')
    pairs = find_pairs(root) if task in (None, 'segmentation') else []
    if pairs:
        return segmentation(args, pairs)
    has_boxes = next((root / 'Annotations').glob('*.xml'), None)
    if has_boxes and task in (None, 'detection'):
        return detection(args)
    folders = sorted(images_below(root).keys() - {root})
    labels = next((f for f in folders if LABEL_FOLDER.search(f.name)), None)
    if labels and task is None:
        raise LaunchError(
            f'{labels}: label maps must be single-channel PNG of class indices, '
            'named like their images (is it a class? --task classification)'
        )
    if task in (None, 'classification'):
        return classification(args)
    raise LaunchError(f'{root} holds no data for {task}: see --help')


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is read into one line that names it."""
    try:
        yield
    except (AttributeError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise LaunchError(
            f'{file} cannot be read: {error}; repair it, or leave it out'
        ) from None


def read_lines(file: Path) -> list[str]:
    with reading(file):
        lines = file.read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip()]


def images_below(root: Path) -> dict[Path, list[Path]]:
    """Lists images by the folder that holds them."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob('*')):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found.setdefault(path.parent, []).append(path)
    return found


def fitted_size(images: Sequence[Path], long: int, short: int) -> tuple[int, int]:
    """Takes the median width and height of 50 images, shrunk to fit in a rectangle."""
    sizes = []
    for path in images[:: max(1, len(images) // 50)]:
        with reading(path), Image.open(path) as image:
            sizes.append(image.size)
    width, height = np.median(sizes, axis=0)
    shrink = min(1, long / max(width, height), short / min(width, height))
    return round(width * shrink), round(height * shrink)


def split(items: Sequence) -> tuple[list, list]:
    """Draws a tenth of the items, at least one, for validation."""
    if len(items) < 2:
        raise LaunchError(f'at least two images are needed, got {len(items)}')
    drawn = set(random.Random(0).sample(range(len(items)), max(1, len(items) // 10)))
    kept = [item for index, item in enumerate(items) if index not in drawn]
    return kept, [items[index] for index in sorted(drawn)]


def part_of(path: Path, root: Path) -> str:
    """Tells from the first such word in a path which part of data it is."""
    found = PART.search(path.relative_to(root).as_posix().lower())
    return found[1] if found else ''


def two_parts(found: dict[str, list]) -> tuple[list, list]:
    """Chooses what to train on, and what to validate on if it is apart."""
    if 'train' not in found:
        return [item for items in found.values() for item in items], []
    return found['train'], found.get('val') or found.get('test') or []


def voc_lists(folder: Path) -> dict[Path, list[str]]:
    """Reads the lists of stems to train and validate on, if there are both."""
    files = [folder / 'train.txt', folder / 'val.txt']
    lists = {file: read_lines(file) for file in files if file.is_file()}
    return lists if len(lists) == 2 and all(lists.values()) else {}


def write_part(root: str, file: str, prefix: dict[str, Path], options: dict) -> str:
    """Writes the arguments of a data set that differ between its parts."""
    if file and Path(file).is_relative_to(root):
        file = os.path.relpath(file, root)
    folders = {key: os.path.relpath(p.resolve(), root) for key, p in prefix.items()}
    options = dict(ann_file=file, data_prefix=folders, **options)
    return ''.join(f'\n    {key}={value!r},' for key, value in options.items()) + '\n'


class Pair(NamedTuple):
    """Images with label maps: ``images/STEM.jpg`` and ``labels/STEM_mask.png``."""

    images: Path
    labels: Path
    stems: list[str]
    img_suffix: str
    seg_map_suffix: str


def find_pairs(root: Path) -> list[Pair]:
    """Finds folders of images that have single-channel label maps in another one."""
    folders = images_below(root)
    named = {f for f in folders if LABEL_FOLDER.search(str(f.relative_to(root)))}
    pairs: dict[Path, Pair] = {}
    for labels in sorted(named):
        maps = [path for path in folders[labels] if path.suffix == '.png']
        if not maps or labels.name == 'SegmentationObject':
            continue
        with reading(maps[0]), Image.open(maps[0]) as image:
            if image.mode not in ('1', 'L', 'P'):
                continue
        names = {path.name for path in maps}
        for folder in folders.keys() - named - pairs.keys():
            stems = [p.stem for p in folders[folder] if maps[0].name.startswith(p.stem)]
            if not stems or part_of(folder, root) != part_of(labels, root):
                continue
            ending = maps[0].name.removeprefix(max(stems, key=len))
            images = [path for path in folders[folder] if path.stem + ending in names]
            suffix, *others = {path.suffix for path in images}
            if others:
                raise LaunchError(f'{folder}: all images must end in {suffix}')
            stems = [path.stem for path in images]
            pairs[folder] = Pair(folder, labels, stems, suffix, ending)
    return list(pairs.values())


def class_names(*folders: Path) -> list[str]:
    """Reads the first file with names of classes that there is."""
    files = (folder / name for folder in folders for name in CLASS_FILES)
    file = next(filter(Path.is_file, files), None)
    if file is None:
        return []
    if file.suffix == '.json':
        with reading(file):
            return list(map(str, json.loads(file.read_text(encoding='utf-8'))))
    names = read_lines(file)
    if file.name == 'labelmap.txt':  # name:colour:parts:actions
        names = [line.partition(':')[0] for line in names if line[0] != '#']
    return names


def label_values(pairs: Sequence[Pair]) -> set[int]:
    """Collects the values of all label maps."""
    seen: set[int] = set()
    for pair in pairs:
        for stem in pair.stems:
            path = pair.labels / f'{stem}{pair.seg_map_suffix}'
            with reading(path), Image.open(path) as label:
                seen.update(np.unique(np.asarray(label, np.uint8)).tolist())
    return seen


def label_classes(
    seen: set[int], names: list[str], void: int | None
) -> tuple[list[str], int]:
    """Names the classes of label maps, and finds the index of void.

    Raises:
        LaunchError: If the values are not class indices from 0.
    """
    if void is None:  # the only index without a name, or 255
        void = len(names) if names and max(seen) == len(names) else 255
    used = seen - {void}
    count = len(names) or max(used, default=0) + 1
    scattered = not names and count > 4 * len(used)  # grey values, no indices
    if len(used) < 2 or max(used) >= count or scattered:
        raise LaunchError(
            f'label maps must hold class indices from 0, and {void} for void, got '
            f'{sorted(seen)}' + f' with {len(names)} names of classes' * bool(names)
        )
    return names or [f'class {index}' for index in range(count)], void


def segmentation(args: argparse.Namespace, pairs: list[Pair]) -> dict:
    """Describes images with label maps."""
    root = args.data
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(part_of(pair.images, root), []).append(pair)
    (pair, *more), val = two_parts(found)
    both = [pair, *(val or [pair])]
    if more or len(both) > 2:
        raise LaunchError(f'{root} holds several data sets: name the folder of one')
    home = pair.labels.parent
    seen = label_values([pair, *val])
    names = class_names(pair.labels, home, root)
    voc_folder = home / 'ImageSets/Segmentation'
    is_voc = voc_folder.is_dir() or max(seen - {255}, default=0) == 20
    if not names and is_voc and pair.labels.name.startswith('SegmentationClass'):
        names = VOC_CLASSES
    classes, void = label_classes(seen, names, args.void)
    files, texts = ['', ''], []
    if val:
        halves = [pair.stems, val[0].stems]
    elif listed := voc_lists(voc_folder):
        files, halves = list(listed), list(listed.values())
    else:
        halves = split(pair.stems)
        texts = ['\n'.join(stems) + '\n' for stems in halves]
    images = [pair.images / f'{stem}{pair.img_suffix}' for stem in pair.stems]
    scale = fitted_size(images, 1024, 1024)
    crop = tuple(min(side, 512) for side in reversed(scale))
    count, batch = len(halves[0]), min(4, len(halves[0]))
    weights = WEIGHTS_V1C if args.method == 'ea' else WEIGHTS
    return dict(
        text=SEGMENTATION,
        framework='mmseg',
        base='fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512',
        classes=classes,
        counts=(count, len(halves[1])),
        void=void,
        scale=scale,
        crop=crop,
        size=crop,
        batch=batch,
        max_iters=min(40000, max(1000, 50 * count // batch)),
        lr=1e-4 if args.pretrained else 1e-3,
        files=files,
        texts=texts,
        folders=[dict(img_path=p.images, seg_map_path=p.labels) for p in both],
        options=[
            dict(img_suffix=p.img_suffix, seg_map_suffix=p.seg_map_suffix) for p in both
        ],
        head=EA_HEAD if args.method == 'ea' else '',
        weights=weights if args.pretrained else None,
    )


def voc_boxes(root: Path, stems: Sequence[str]) -> dict:
    """Reads XML files of a VOC folder into COCO's format."""
    images: list[dict] = []
    annotations: list[dict] = []
    ids: dict[str, int] = {}

    def text(element: ElementTree.Element, name: str) -> str:
        if not (found := element.findtext(name)):
            raise ValueError(f'{element.tag} has no {name}')
        return found

    for number, stem in enumerate(stems):
        path = root / f'Annotations/{stem}.xml'
        with reading(path):
            tree = ElementTree.parse(path).getroot()
            sides = {s: int(text(tree, f'size/{s}')) for s in ('width', 'height')}
            images.append(dict(sides, id=number, file_name=text(tree, 'filename')))
            for item in tree.iter('object'):
                left, top, right, bottom = (
                    float(text(item, f'bndbox/{side}'))
                    for side in ('xmin', 'ymin', 'xmax', 'ymax')
                )
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                category = ids.setdefault(text(item, 'name'), len(ids) + 1)
                common = dict(image_id=number, category_id=category, iscrowd=0)
                common.update(id=len(annotations) + 1, bbox=box, area=box[2] * box[3])
                annotations.append(common)
    categories = [dict(id=index, name=name) for name, index in ids.items()]
    return dict(images=images, annotations=annotations, categories=categories)


def read_coco(file: Path) -> tuple[dict, Path]:
    """Reads a COCO file, and finds the folder that names of its images start from."""
    with reading(file):
        content = json.loads(file.read_text(encoding='utf-8'))
        for key, fields in COCO_FIELDS.items():
            if not (items := content.get(key)):
                raise ValueError(f"it has no {key}, which COCO's format needs")
            for item in items:
                if missing := fields - item.keys():
                    raise ValueError(f'one of {key} has no {min(missing)}')
        name = Path(content['images'][0]['file_name'])
    if name.is_absolute():
        raise LaunchError(f'{file}: make names of images relative to a folder: {name}')
    for above in list(file.resolve().parents)[:2]:
        found = list(above.rglob(glob.escape(str(name))))
        if found:  # of several, in the part that the file is of
            of = part_of(file.resolve(), above)
            found.sort(key=lambda path: part_of(path, above) != of)
            return content, found[0].parents[len(name.parts) - 1]
    raise LaunchError(f'the image {name} of {file} is neither beside it nor near it')


def detection(args: argparse.Namespace) -> dict:
    """Describes a COCO file, or the XML files of a VOC folder."""
    root = args.data
    if root.is_dir():
        stems = list(voc_lists(root / 'ImageSets/Main').values())
        stems = stems or split(sorted(p.stem for p in root.glob('Annotations/*.xml')))
        content, folder = voc_boxes(root, [*stems[0], *stems[1]]), root / 'JPEGImages'
        images, count = content['images'], len(stems[0])
        halves = [images[:count], images[count:]]
    else:
        content, folder = read_coco(root)
        val = root.with_name(root.name.replace('train', 'val'))
        halves = [] if val.is_file() and val != root else split(content['images'])
    annotations, folders = content['annotations'], [folder, folder]
    files, texts = [], []
    for images in halves:
        ids = {image['id'] for image in images}
        kept = [a for a in annotations if a['image_id'] in ids]
        texts.append(json.dumps(dict(content, images=images, annotations=kept)))
    if not halves:
        other, folders[1] = read_coco(val)
        files, halves = [root, val], [content['images'], other['images']]
    with_mask = bool(annotations) and all(a.get('segmentation') for a in annotations)
    kind = 'mask' if with_mask else 'faster'
    scale = fitted_size([folder / i['file_name'] for i in content['images']], 1333, 800)
    count = len(halves[0])
    neck = EA_NECK.format(channels=[256, 512, 1024, 2048], next='{{_base_.model.neck}}')
    return dict(
        text=DETECTION,
        framework='mmdet',
        base=f'{kind}_rcnn/{kind}-rcnn_r50_fpn_1x_coco',
        classes=[category['name'] for category in content['categories']],
        counts=(count, len(halves[1])),
        with_mask=with_mask,
        heads='bbox_head=heads, mask_head=heads' if with_mask else 'bbox_head=heads',
        neck=neck if args.method == 'ea' else '',
        scale=scale,
        size=max(scale),
        epochs=min(100, max(12, 10000 // count)),
        warmup=min(500, 2 * count),
        files=files,
        texts=texts,
        folders=[dict(img=path) for path in folders],
    )


def classification(args: argparse.Namespace) -> dict:
    """Describes a folder of images for each class."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for folder, images in images_below(args.data).items():
        if folder != args.data:
            items = found.setdefault(part_of(folder.parent, args.data), [])
            items.extend((path, folder.name) for path in images)
    train, val = two_parts(found)
    classes = sorted({name for _, name in train})
    if len(classes) < 2 or {name for _, name in val} - set(classes):
        raise LaunchError(
            f'{args.data} has neither images with label maps, nor a folder of images '
            'for each of several classes: see --help'
        )
    halves = (train, val) if val else split(train)
    texts = [
        ''.join(
            f'{path.relative_to(args.data).as_posix()} {classes.index(name)}\n'
            for path, name in items
        )
        for items in halves
    ]
    side = max(32, min(fitted_size([path for path, _ in train], 10**6, 224)))
    pool = "dict(type='GlobalAveragePooling')"
    return dict(
        text=CLASSIFICATION,
        framework='mmpretrain',
        base='resnet/resnet50_8xb32_in1k',
        classes=classes,
        counts=tuple(map(len, halves)),
        side=side,
        size=side,
        batch=min(32, len(halves[0])),
        neck=EA_NECK.format(channels=[2048], next=pool) * (args.method == 'ea'),
        files=[],
        texts=texts,
        folders=[dict(img_path=args.data)] * 2,
    )
