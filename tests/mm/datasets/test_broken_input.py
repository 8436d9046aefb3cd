"""Broken input of every kind that is promised: one clear error, or counted.

Each row of a table is one kind: its name, what makes it, what the message must say.
"""

import copy
import json
import pickle
import runpy
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.cli import check as check_command
from attn_plugins.mm.apis.launch import one_line_errors, read_config
from attn_plugins.mm.apis.prediction import list_images, read_image, video_frames
from attn_plugins.mm.datasets import checks
from attn_plugins.mm.datasets.batch_hook import CheckBatchHook
from attn_plugins.mm.datasets.checks import (
    add_checks,
    check_run,
    check_weights,
    list_samples,
)
from attn_plugins.mm.datasets.coco import check_coco
from attn_plugins.mm.datasets.image_files import check_labels
from attn_plugins.mm.engine.checkpoint_fit import check_some_fit, fit_weights
from attn_plugins.mm.engine.errors import DataError, UserError
from attn_plugins.mm.engine.loading import load_from_local

ERRORS = (UserError, FileNotFoundError, pickle.UnpicklingError)
NAN, INF = float('nan'), float('inf')


def refused(make, *parts: str) -> str:
    """Returns the message of what ``make()`` raises, which holds all parts."""
    with pytest.raises(ERRORS) as error:
        make()
    message = str(error.value)
    for part in parts:
        assert part in message, message
    return message


def table(rows: dict):
    return pytest.mark.parametrize(
        ('make', 'parts'), [(make, parts) for make, *parts in rows.values()], ids=rows
    )


# Configs


def written(text: str, options: dict | None = None):
    def make(path):
        file = path / 'config.py'
        file.write_text(text)
        return read_config(str(file), options)

    return make


CONFIGS_TABLE = {
    'syntax error': (
        written('model = dict(\n'),
        'config.py has a syntax error in line',
    ),
    'missing base': (written("_base_ = './nothing.py'\n"), 'nothing.py'),
    'unknown stock base': (written("_base_ = 'mmseg::no/no.py'\n"), 'no/no.py'),
    'unknown name': (written('model = x\n'), 'config.py cannot be read: NameError'),
    'missing module': (
        written("custom_imports = dict(imports=['no_such_module'])\n"),
        'config.py cannot be read: ImportError',
    ),
    'missing config': (lambda path: read_config(str(path / 'no.py')), 'no config file'),
    'misspelt section': (
        written('model = dict()\n', {'modle.pretrained': None}),
        "the config has no setting 'modle', did you mean 'model'?",
    ),
}


@table(CONFIGS_TABLE)
def test_configs(make, parts, tmp_path):
    refused(lambda: make(tmp_path), *parts)


def test_options_that_are_new_but_right_pass(tmp_path):
    options = {'randomness.deterministic': True, 'x.y': 1, 'find_unused_parameters': 1}
    assert written('x = dict()', options)(tmp_path).x == dict(y=1)


# Checkpoints


def checkpoint(path, content) -> str:
    file = str(path / 'checkpoint.pth')
    torch.save(content, file)
    return file


def file_of(path, content: bytes) -> str:
    (path / 'checkpoint.pth').write_bytes(content)
    return str(path / 'checkpoint.pth')


def cut(path: str, kept: float) -> str:
    with open(path, 'r+b') as file:
        file.truncate(int(file.seek(0, 2) * kept))
    return path


def fits(path, content, check=fit_weights):
    check(nn.Linear(2, 3), load_from_local(checkpoint(path, content)), 'c.pth')


CHECKPOINTS_TABLE = {
    'missing': (lambda p: check_weights(str(p / 'no')), 'no checkpoint'),
    'folder': (lambda p: check_weights(str(p)), 'there is no checkpoint'),
    'empty': (lambda p: check_weights(file_of(p, b'')), 'ends too early'),
    'text': (lambda p: check_weights(file_of(p, b'weights\n')), 'is refused'),
    'cut off': (
        lambda p: check_weights(cut(checkpoint(p, nn.Linear(9, 9).state_dict()), 0.3)),
        'damaged',
    ),
    'no weights': (
        lambda p: check_weights(checkpoint(p, dict(state_dict={}, meta={}))),
        'holds no weights',
    ),
    'a list': (
        lambda p: check_weights(checkpoint(p, [1, 2])),
        'holds no weights: expected a state_dict of tensors, got list',
    ),
    'of another model': (
        lambda p: fits(p, nn.Conv2d(1, 1, 1).state_dict() | {'x': torch.ones(1)}),
        'does not fit the config',
    ),
    'lacks weights': (
        lambda p: fits(p, {'weight': torch.ones(3, 2)}),
        'bias is missing in the checkpoint',
    ),
    'weights of another shape': (
        lambda p: fits(p, nn.Linear(2, 4).state_dict()),
        'weight is [4, 2] in the checkpoint and [3, 2] in the model',
    ),
    'load_from: nothing fits': (
        # The name of one, and the shape of another.
        lambda p: fits(
            p, {'weight': torch.ones(4, 2), 'x': torch.ones(3)}, check_some_fit
        ),
        'has nothing for the model',
    ),
}


@table(CHECKPOINTS_TABLE)
def test_checkpoints(make, parts, tmp_path):
    assert '\n' not in refused(lambda: make(tmp_path), *parts)


# Images and label maps


def image(path, mode: str = 'RGB', size=(40, 30), name: str = 'image.jpg', **options):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    noise = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    Image.fromarray(noise, mode).save(path / name, **options)
    return str(path / name)


def text(path, name: str, content: str = 'this is no image\n') -> str:
    (path / name).write_text(content)
    return str(path / name)


def labels(path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path / 'labels.png')
    return str(path / 'labels.png')


FINE = np.zeros((30, 40), np.uint8)


def check(image_path, label_path=None):
    for problem in checks.broken_files([(image_path, label_path)]):
        raise DataError(problem)


IMAGES_TABLE = {
    'image: cut off JPEG': (lambda p: check(cut(image(p), 0.6)), 'cut off'),
    'image: JPEG without its last rows': (
        lambda p: check(cut(image(p, size=(400, 300)), 0.9)),
        'image.jpg is cut off',
    ),
    'image: cut off PNG': (
        lambda p: check(cut(image(p, name='a.png'), 0.6)),
        'a.png is cut off',
    ),
    'image: zero bytes': (lambda p: check(text(p, 'a.jpg', '')), 'a.jpg is', '(0 b'),
    'image: text': (lambda p: check(text(p, 'a.png')), 'a.png is not an image'),
    'labels: other size': (
        lambda p: check(image(p), labels(p, FINE[:20])),
        'labels.png is 20 x 40 (height x width) and its image 30 x 40',
    ),
    'labels: turned': (lambda p: check(image(p), labels(p, FINE.T)), '40 x 30'),
    'labels: colours': (
        lambda p: check(image(p), labels(p, np.stack([FINE] * 3, -1))),
        'labels.png is no label map: expected a PNG of one channel',
        "'RGB'",
    ),
    'labels: 16 bit': (
        lambda p: check(image(p), labels(p, FINE.astype(np.uint16) + 300)),
        "indices up to 255, got mode 'I;16', values up to 300",
    ),
    'labels: cut off': (
        lambda p: check(image(p), cut(labels(p, FINE), 0.5)),
        'labels.png is',
    ),
    'label above the number of classes': (
        lambda p: check_labels(FINE + 19, 19, 255, 'a.png'),
        'a.png has the label 19 at 1200 places, and the model has num_classes=19',
    ),
    'predict: broken image': (
        lambda p: read_image(text(p, 'a.jpg')),
        'a.jpg cannot be',
    ),
    'predict: cut off image': (
        lambda p: read_image(cut(image(p, size=(400, 300)), 0.6)),
        'image.jpg',
    ),
    'predict: no image': (lambda p: read_image(p / 'no.jpg'), 'there is no image'),
    'predict: empty folder': (lambda p: list_images(p), 'has no images'),
    'predict: folder of other files': (
        lambda p: [text(p, 'notes.txt'), list_images(p)],
        'has no images',
    ),
    'predict: broken video': (
        lambda p: video_frames(text(p, 'a.mp4')),
        'a.mp4 cannot be read as a video',
    ),
}


@table(IMAGES_TABLE)
def test_images_and_label_maps(make, parts, tmp_path):
    assert '\n' not in refused(lambda: make(tmp_path), *parts)


@pytest.mark.parametrize('mode', ['RGB', 'CMYK', 'L', 'RGBA', 'P', 'LA', 'I;16', '1'])
def test_images_of_other_modes_are_read_as_colours(mode, tmp_path):
    """Not broken: grey, palette, alpha, CMYK and 16 bit become 8-bit BGR."""
    picture = Image.fromarray(np.full((30, 40, 3), 128, np.uint8))
    kind = 'jpg' if mode == 'CMYK' else 'png'
    if mode == 'I;16':
        picture = Image.fromarray(np.full((30, 40), 128 * 256, np.uint16))
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / f'a.{kind}')
    check(str(tmp_path / f'a.{kind}'))
    assert read_image(tmp_path / f'a.{kind}').shape == (30, 40, 3)


def append(path: str, content: bytes) -> str:
    with open(path, 'ab') as file:
        file.write(content)
    return path


def header(path, width: int, height: int) -> str:
    """A PNG of any size without its pixels."""
    content = Path(image(path, 'L', name='small.png')).read_bytes()
    size = b'IHDR' + struct.pack('>II', width, height) + content[24:29]
    rest = struct.pack('>I', zlib.crc32(size)) + content[33:]
    (path / 'large.png').write_bytes(content[:12] + size + rest)
    return str(path / 'large.png')


def cut_chunk(path: str) -> str:
    Path(path).write_bytes(Path(path).read_bytes()[:-12])
    return path


WHOLE_IMAGES = {
    'video behind the picture': lambda p: append(image(p), bytes(200_000)),
    'more pixels than PIL likes': lambda p: header(p, 14000, 13000),
    'PNG without its last chunk': lambda p: cut_chunk(image(p, name='a.png')),
}


@pytest.mark.parametrize('make', WHOLE_IMAGES.values(), ids=WHOLE_IMAGES)
def test_odd_but_whole_images_pass(make, tmp_path):
    check(make(tmp_path))


def test_odd_but_right_label_maps_pass(tmp_path):
    """A palette, small 16-bit values, a photo that is shown turned by a quarter."""
    indices = Image.fromarray(FINE, 'P')
    indices.putpalette(list(range(9)))
    indices.save(tmp_path / 'p.png')
    check(image(tmp_path), str(tmp_path / 'p.png'))
    check(image(tmp_path), labels(tmp_path, FINE.astype(np.uint16) + 5))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image(tmp_path, size=(30, 40), name='turned.jpg', exif=exif)
    check(turned, str(tmp_path / 'p.png'))


# Annotations in COCO's format


def coco(path, change=lambda content: None, cut_to: int | None = None) -> str:
    """Writes annotations of two images and three boxes, and what is wrong with them."""
    for number in (1, 2):
        Image.new('RGB', (100, 100)).save(path / f'{number}.jpg')
    content = dict(
        images=[
            dict(id=n, file_name=f'{n}.jpg', height=100, width=100) for n in (1, 2)
        ],
        categories=[dict(id=1, name='cat'), dict(id=7, name='dog')],
        annotations=[
            dict(
                id=n,
                image_id=1 + n % 2,
                category_id=(1, 7, 1)[n],
                bbox=[10, 10, 20, 20],
                area=400,
                iscrowd=0,
                segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]],
            )
            for n in range(3)
        ],
    )
    change(content)
    file = path / 'annotations.json'
    file.write_text(json.dumps(content)[:cut_to])
    return str(file)


def of_coco(change, classes=('cat', 'dog')):
    """Checks annotations after ``change(first annotation, content)``."""

    def make(path):
        file = coco(path, lambda content: change(content['annotations'][0], content))
        return check_coco(file, classes)

    return make


COCO_TABLE = {
    'empty file': (lambda p: check_coco(text(p, 'a.json', '')), 'a.json cannot be'),
    'cut off': (lambda p: check_coco(coco(p, cut_to=200)), 'it is cut off, or'),
    'a list': (lambda p: check_coco(text(p, 'a.json', '[]')), 'a.json cannot be'),
    'no categories': (of_coco(lambda a, c: c.pop('categories')), "'categories'"),
    'image without size': (
        of_coco(lambda a, c: [x.pop('height') for x in c['images']]),
        "KeyError: 'height'",
    ),
    'annotation without box': (of_coco(lambda a, c: a.pop('bbox')), "'bbox'"),
    'image ids twice': (
        of_coco(lambda a, c: c['images'][1].update(id=1)),
        'ids in images are there twice',
    ),
    'category ids twice': (
        of_coco(lambda a, c: c['categories'][1].update(id=1)),
        'ids in categories are there twice',
    ),
    'NaN box': (
        of_coco(lambda a, c: a.update(bbox=[1, NAN, 5, 5])),
        'a number of annotation 0 is not finite',
    ),
    'box of three numbers': (
        of_coco(lambda a, c: a.update(bbox=[1, 2, 3])),
        'not enough values',
    ),
    'box of text': (of_coco(lambda a, c: a.update(bbox=list('1234'))), 'TypeError'),
    'area that is null': (of_coco(lambda a, c: a.update(area=None)), 'TypeError'),
    'classes: misspelt': (
        of_coco(
            lambda a, c: c['categories'][1].update(name='giraffe'), classes=('girafe',)
        ),
        "has no category 'girafe', did you mean 'giraffe'?",
    ),
    'classes: in another order': (
        of_coco(lambda a, c: None, classes=('dog', 'cat')),
        'has its categories in the order cat, dog, the config has dog, cat',
    ),
    'no annotations': (
        of_coco(lambda a, c: c['annotations'].clear()),
        'nothing to learn from: none of its 0 annotations is left',
    ),
    'no annotation is left': (
        of_coco(lambda a, c: [x.update(area=0) for x in c['annotations']]),
        'nothing to learn from: none of its 3 annotations',
        "'boxes without size': 3",
    ),
}


@table(COCO_TABLE)
def test_annotations(make, parts, tmp_path):
    assert '\n' not in refused(lambda: make(tmp_path), *parts)


LEFT_OUT = '3 annotations of 2 images, left out: '


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({}, 'none'),
        (dict(bbox=[10, 10, 0, 20]), '1 boxes without size'),
        (dict(bbox=[10, 10, -5, 20]), '1 boxes without size'),
        (dict(area=0), '1 boxes without size'),
        (dict(bbox=[200, 10, 5, 5]), '1 boxes outside of the image'),
        (dict(segmentation=[[1, 2, 3, 4]]), '1 polygons of less than three points'),
        (dict(segmentation=[[1] * 7]), '1 polygons of less than three points'),
        (dict(segmentation=dict(size=[9, 9], counts='`0a0')), 'none'),
        (dict(image_id=99), '1 of images that are not in the file'),
    ],
)
def test_annotations_that_are_left_out_are_counted(change, reason, tmp_path):
    images, summary = of_coco(lambda a, c: a.update(change))(tmp_path)
    assert images == ['1.jpg', '2.jpg']
    assert summary == f'{tmp_path}/annotations.json: {LEFT_OUT}{reason}'


def test_classes_that_the_config_leaves_out_are_counted(tmp_path):
    _, summary = of_coco(lambda a, c: None, classes=('dog',))(tmp_path)
    assert summary.endswith('2 of classes that the config does not name')


# Data sets


def mmdet_set(path, **options) -> ConfigDict:
    metainfo = dict(classes=('cat', 'dog'))
    load = [dict(type='LoadImageFromFile')]
    settings = dict(type='CocoDataset', data_root=str(path), metainfo=metainfo)
    return ConfigDict({**settings, 'pipeline': load, **options})


def samples(settings: dict, scope: str = 'mmdet', **model) -> list:
    return list_samples(settings, Config(dict(default_scope=scope, model=model)))


def test_masks_are_checked_where_they_are_read(tmp_path, capsys):
    change = dict(segmentation=[[1, 1, 5, 1]])
    file = Path(coco(tmp_path, lambda c: c['annotations'][0].update(change))).name
    for with_mask, expected in ((True, '1 polygons of less'), (False, 'none')):
        load = dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)
        samples(mmdet_set(tmp_path, ann_file=file, pipeline=[load]))
        assert f'left out: {expected}' in capsys.readouterr().err


def test_a_file_of_backgrounds_passes_where_empty_images_are_kept(tmp_path):
    file = Path(coco(tmp_path, lambda content: content['annotations'].clear())).name
    for filter_cfg in (None, dict(filter_empty_gt=False)):
        assert samples(mmdet_set(tmp_path, ann_file=file, filter_cfg=filter_cfg))
    settings = mmdet_set(tmp_path, ann_file=file, filter_cfg=dict(filter_empty_gt=True))
    refused(lambda: samples(settings), 'nothing to learn from')


@pytest.mark.parametrize('kind', ['CocoDataset', 'mmdet.CocoDataset', CocoDataset])
def test_images_that_are_missing_or_elsewhere(kind, tmp_path):
    file = Path(coco(tmp_path)).name
    settings = mmdet_set(tmp_path, ann_file=file, type=kind)
    assert samples(settings) == [(f'{tmp_path}/{n}.jpg', None) for n in (1, 2)]
    (tmp_path / '1.jpg').unlink()
    refused(lambda: samples(settings), 'names 1 of 2 files', '1.jpg')
    assert samples(dict(settings, data_prefix=dict(img='s3://x/'))) == []


def mmseg_set(path, **options) -> dict:
    """A folder of two images with label maps, of the classes a and b."""
    for index in range(2):
        for folder, kind in (('images', 'jpg'), ('labels', 'png')):
            (path / folder).mkdir(exist_ok=True)
            array = FINE if kind == 'png' else np.stack([FINE] * 3, -1)
            Image.fromarray(array).save(path / folder / f'{index}.{kind}')
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    settings = dict(
        type='BaseSegDataset',
        data_root=str(path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('a', 'b')),
        pipeline=steps,
    )
    return ConfigDict({**settings, **options})


def of_mmseg(change, **head):
    def make(path):
        settings = mmseg_set(path)
        change(path, settings)
        head.setdefault('num_classes', 2)
        return samples(settings, 'mmseg', decode_head=dict(head))

    return make


def of_list(content: str):
    def make(path):
        text(path, 'list.txt', content)
        settings = dict(
            type='CustomDataset',
            data_root=str(path),
            ann_file='list.txt',
            pipeline=[dict(type='LoadImageFromFile')],
        )
        return samples(settings, 'mmpretrain')

    return make


DATASETS_TABLE = {
    'images of another suffix': (
        of_mmseg(lambda p, s: s.update(img_suffix='.jpeg')),
        'BaseSegDataset has no images',
        'img_suffix .jpeg',
    ),
    'image without labels': (
        of_mmseg(lambda p, s: (p / 'labels/1.png').unlink()),
        'names 1 of 4 files that are not there',
        'labels/1.png',
    ),
    'empty list of images': (
        of_mmseg(lambda p, s: s.update(ann_file=text(p, 'list.txt', ''))),
        'BaseSegDataset has no images',
        'list.txt',
    ),
    'other classes than the head': (
        of_mmseg(lambda p, s: None, num_classes=7),
        'model.decode_head has num_classes=7 and the data set BaseSegDataset 2 classes',
    ),
    'classified: empty list': (of_list(''), 'CustomDataset has no images'),
    'classified: no label': (of_list('a.jpg\n'), 'not enough values'),
    'classified: label that is a name': (of_list('a.jpg cat\n'), 'invalid literal'),
    'classified: missing image': (of_list('b.jpg 1\n'), 'names 1 of 1 files', 'b.jpg'),
}


@table(DATASETS_TABLE)
def test_data_sets(make, parts, tmp_path):
    assert '\n' not in refused(lambda: make(tmp_path), *parts)


@pytest.mark.parametrize(
    'model',
    [
        dict(decode_head=dict(num_classes=1, out_channels=1)),
        dict(auxiliary_head=[dict(type='STDCHead', num_classes=3)]),  # learns edges
        dict(text_encoder=dict(type='x'), decode_head=dict(num_classes=7)),
    ],
)
def test_classes_that_differ_for_a_reason_pass(model, tmp_path):
    assert len(samples(mmseg_set(tmp_path), 'mmseg', **model)) == 2


def test_large_data_sets_are_looked_through_in_steps(tmp_path, capsys):
    cfg = Config(dict(default_scope='mmseg', model={}))
    found = list_samples(mmseg_set(tmp_path), cfg, most=1)
    assert found == [(f'{tmp_path}/images/0.jpg', f'{tmp_path}/labels/0.png')]
    assert 'looked at one in 2 of 2 images' in capsys.readouterr().err


def test_the_command_finds_all_that_is_broken(tmp_path, monkeypatch, capsys):
    settings = mmseg_set(tmp_path)
    cut(str(tmp_path / 'images/0.jpg'), 0.5)
    Image.fromarray(FINE + 5).save(tmp_path / 'labels/1.png')
    cfg = dict(
        default_scope='mmseg',
        model=dict(decode_head=dict(num_classes=2)),
        train_dataloader=dict(dataset=settings),
    )
    Config(cfg).dump(tmp_path / 'config.py')
    run = [str(tmp_path / 'config.py'), '--splits', 'train']
    message = refused(lambda: check_command.main(run), '2 broken:', '0.jpg is cut off')
    assert '1.png has the label 5 at 1200 places' in message
    assert '2 images, 2 broken' in capsys.readouterr().out


# Batches


class Segmentor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decode_head = nn.Identity()
        self.decode_head.num_classes, self.decode_head.ignore_index = 5, 255


def batch(pixels=0.0, label: int = 3) -> dict:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 4, 4), label)))
    sample.set_metainfo(dict(img_path='a.jpg', seg_map_path='a.png'))
    return dict(inputs=[torch.full((3, 4, 4), pixels)], data_samples=[sample])


def iterate(data: dict, head: dict | None = None, **outputs: float) -> None:
    hook, runner = CheckBatchHook(), SimpleNamespace(model=Segmentor(), iter=6)
    vars(runner.model.decode_head).update(head or {})
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, data)
    losses = {key: torch.tensor(value) for key, value in outputs.items()}
    hook.after_train_iter(runner, 0, data, losses)


BATCHES_TABLE = {
    'NaN image': (lambda: iterate(batch(NAN)), 'a.jpg has pixels that are NaN'),
    'infinite image': (lambda: iterate(batch(INF)), 'a.jpg', 'infinite'),
    'label above the classes': (
        lambda: iterate(batch(label=5)),
        'a.png has the label 5 at 16 places, and the model has num_classes=5',
    ),
    'negative label': (lambda: iterate(batch(label=-2)), 'a.png has the label -2'),
    'label above one output': (
        lambda: iterate(batch(label=2), dict(num_classes=1, out_channels=1)),
        'has the label 2 at 16 places',
    ),
    'NaN loss': (
        lambda: iterate(batch(), loss=NAN, loss_ce=NAN),
        "iteration 7: {'loss': nan, 'loss_ce': nan} is no finite number",
        'lower learning rate',
        'a.jpg',
    ),
    'infinite loss': (lambda: iterate(batch(), loss=INF), "{'loss': inf}"),
}


@table(BATCHES_TABLE)
def test_batches(make, parts):
    assert '\n' not in refused(make, *parts)


def test_right_and_ignored_labels_pass():
    iterate(batch(label=4), loss=1.0)
    iterate(batch(label=255), loss=0.0)
    iterate(batch(label=1), dict(num_classes=1, out_channels=1), loss=1.0)


# Together


class FakeRunner:
    """Has the config, hooks and no model."""

    _resume = False

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.hooks = copy.deepcopy(cfg), []

    def register_hook(self, hook: Hook, priority: str) -> None:
        self.hooks.append(hook)

    def train(self) -> None:
        pass

    def has(self) -> set[str]:
        return {type(hook).__name__ for hook in self.hooks}


def test_a_run_of_mmdet(repo, tmp_path, monkeypatch, capsys):
    """Annotations and files before it; mmdet's hooks in it; the config stays."""
    monkeypatch.chdir(repo)
    cfg = read_config('configs/mask-rcnn_lesa-r50_coco.py')
    cfg.work_dir = str(tmp_path / 'work')
    file = Path(coco(tmp_path)).name
    cfg.train_dataloader.dataset.update(
        mmdet_set(tmp_path, ann_file=file, data_prefix=dict(img=''))
    )
    before = copy.deepcopy(cfg.to_dict())
    check_run(cfg, 'train')
    assert capsys.readouterr().err == f'{tmp_path}/{file}: {LEFT_OUT}none\n'
    runner = FakeRunner(cfg)
    add_checks(runner, training=True)
    add_checks(runner, training=True)
    assert len(runner.hooks) == 3
    assert runner.has() == {
        'CheckWeightsHook',
        'CheckInvalidLossHook',
        'NumClassCheckHook',
    }
    assert not runner.hooks[0].whole
    assert cfg.to_dict() == runner.cfg.to_dict() == before
    cut(str(tmp_path / '2.jpg'), 0.5)
    refused(lambda: check_run(cfg, 'train'), '2.jpg is cut off')
    monkeypatch.setenv('RANK', '1')
    check_run(cfg, 'train')  # the first process says it
    cfg.work_dir = f'{tmp_path}/{file}/work'
    refused(lambda: check_run(cfg, 'train'), 'cannot write to the work folder')


PREPROCESSED = 'data_preprocessor.num_classes'


@pytest.mark.parametrize(
    ('name', 'change', 'expected'),
    [
        ('gsa-r50_cifar100', {}, {'CheckBatchHook'}),
        ('gsa-r50_cifar100', {PREPROCESSED: None}, {'CheckBatchHook'}),
        ('mask-rcnn_lesa-r50_coco', {'model.language_model': 1}, set()),
    ],
)
def test_hooks_compare_classes_where_they_can(name, change, expected, repo):
    cfg = read_config(str(repo / f'configs/{name}.py'), change)
    runner = FakeRunner(cfg)
    add_checks(runner, training=True)
    assert runner.has() - {'CheckInvalidLossHook'} == {'CheckWeightsHook', *expected}


@pytest.mark.parametrize('more', [[], ['--no-checks']])
def test_a_run_gets_the_config_of_the_user(more, repo, tmp_path, monkeypatch):
    """And it is what mmengine writes to the work folder."""
    monkeypatch.chdir(repo)
    runners = []

    def from_cfg(cfg):
        runners.append(FakeRunner(cfg))
        return runners[0]

    monkeypatch.setattr(Runner, 'from_cfg', from_cfg)
    name, data = 'configs/eanet_r18_demo.py', tmp_path / 'data'
    if not more:  # it is not looked for
        for split in ('training', 'validation'):
            for part, kind in (('images', 'jpg'), ('annotations', 'png')):
                (data / part / split).mkdir(parents=True)
                array = FINE if kind == 'png' else np.stack([FINE] * 3, -1)
                Image.fromarray(array).save(data / part / split / f'0.{kind}')
    command = ['train.py', name, '--data-root', str(data), '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', [*command, *more])
    runpy.run_path('tools/train.py', run_name='__main__')
    expected = read_config(name, data_root=str(data)).to_dict()
    expected.update(launcher='none', work_dir=str(tmp_path))
    (runner,) = runners
    assert runner.cfg.to_dict() == expected
    assert runner.has() == (set() if more else {'CheckBatchHook', 'CheckWeightsHook'})


def test_an_error_in_a_worker_is_one_line():
    trace = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most '
        'recent call last):\n  File "x.py"\n'
        'attn_plugins.mm.engine.errors.DataError: a.jpg is cut off: a JPEG\n'
    )
    with (
        pytest.raises(SystemExit, match=r'error: a\.jpg is cut off: a JPEG$'),
        one_line_errors(),
    ):
        raise DataError(trace)
