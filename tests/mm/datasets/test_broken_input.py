"""Broken input of every kind: one clear error, or left out and counted.

Each row of a table is one kind: its name, what makes it, what the message must say.
"""

import copy
import functools
import json
import os
import pickle
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.mm.apis.launch import (
    check_data,
    datasets_of,
    one_line_errors,
    read_config,
)
from attn_plugins.mm.apis.prediction import list_images, read_image, video_frames
from attn_plugins.mm.datasets.checking import CheckBatchHook, CheckFiles
from attn_plugins.mm.datasets.config_checks import (
    check_classes,
    check_config,
    check_options,
)
from attn_plugins.mm.datasets.dataset_checks import (
    DataError,
    check_coco,
    check_image_list,
    check_labels,
)
from attn_plugins.mm.datasets.fitting import check_some_fit, fit_weights
from attn_plugins.mm.datasets.run_checks import (
    check_annotations,
    check_folder,
    check_run,
    check_weights,
    is_turned_by,
    summary,
)
from attn_plugins.mm.engine.loading import BrokenCheckpointError, load_from_local

ERRORS = (
    BrokenCheckpointError,
    FileNotFoundError,
    ValueError,
    pickle.UnpicklingError,
)


SOAK = 'SOAK' in os.environ


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


# Arguments of models


def layer(**options):
    return lambda: MODELS.build(dict(in_channels=16, **options))


EA = dict(type='ExternalAttention2d')
LESA = dict(type='LESA2d', rel_pos_size=8)
GSA = dict(type='GlobalSelfAttention', rel_pos_size=8)


def backbone(**options):
    return lambda: MODELS.build(dict(type='mmdet.LESAResNet', **options))


MODELS_TABLE = {
    'no slots': (layer(**EA, num_slots=0), 'num_slots must be a positive integer'),
    'negative size': (layer(**EA, mid_channels=-8), 'mid_channels', 'got -8'),
    'size that is text': (layer(**EA, num_slots='64'), 'num_slots', "got '64'"),
    'unknown normalisation': (layer(**EA, normalization='l2'), "'double', 'softmax'"),
    'eps that is NaN': (layer(**EA, eps=float('nan')), 'eps must be >= 0', 'nan'),
    'unknown order': (layer(**EA, order='fast'), "'auto', 'folded', 'plain'"),
    'heads that do not divide': (
        layer(**LESA, num_heads=3),
        'in_channels must be divisible by num_heads=3',
    ),
    'unknown variant': (layer(**LESA, variant='dynamc'), "'dynamic', 'static'"),
    'unknown stride': (layer(**LESA, stride=4), 'stride must be 1 or 2, got 4'),
    'nothing to attend to': (
        layer(**GSA, content=False, columns=False, rows=False),
        'choose at least one',
    ),
    'flag that is a number': (layer(**GSA, content=-1), 'True or False, got -1'),
    'table of size 0': (layer(type='LESA2d', rel_pos_size=0), 'rel_pos_size', 'got 0'),
    'stage out of range': (
        lambda: MODELS.build(dict(type='EANeck', in_channels=[8, 8], stages=(2,))),
        'stages must lie in [-2, 2)',
    ),
    'wrong depth': (backbone(depth=51), 'depth must be one of 18, 34, 50', 'got 51'),
    'stage flags of another number': (
        backbone(depth=50, stage_with_attn=(True,)),
        'stage_with_attn must hold one bool for each of the num_stages=4',
    ),
    'misspelt option of a layer': (
        backbone(depth=50, attn=dict(num_head=8)),
        "did you mean 'num_heads'?",
    ),
    'map of other channels': (
        lambda: layer(**EA)()(torch.ones(1, 8, 4, 4)),
        'expects (B, 16, H, W), got (1, 8, 4, 4)',
    ),
    'map without pixels': (
        lambda: layer(**EA)()(torch.ones(1, 16, 0, 4)),
        'at least one pixel, got (1, 16, 0, 4)',
    ),
    'map of integers': (
        lambda: layer(**EA)()(torch.ones(1, 16, 4, 4, dtype=torch.long)),
        'floating-point numbers, got torch.int64',
    ),
    'maps of another number': (
        lambda: MODELS.build(dict(type='EANeck', in_channels=[8, 8]))([torch.ones(1)]),
        'expects 2 maps, got 1',
    ),
}


@table(MODELS_TABLE)
def test_arguments_of_models(make, parts):
    refused(make, *parts)


# Configs and options


@functools.cache
def plain_demo() -> Config:
    return read_config('configs/eanet_r18_demo.py')


def demo(**options) -> Config:
    if not options:
        return copy.deepcopy(plain_demo())
    return read_config('configs/eanet_r18_demo.py', options)


def option(**options):
    return lambda: demo(**{key.replace('__', '.'): v for key, v in options.items()})


def whole_config(cfg: Config) -> None:
    check_config(cfg, 'train', 'val', 'test')


def changed(change, check=whole_config):
    def make():
        cfg = demo()
        change(cfg)
        check(cfg)

    return make


def written(text: str):
    def make(path):
        file = path / 'config.py'
        file.write_text(text)
        return read_config(str(file))

    return make


def classes_fit(cfg: Config, *splits: str) -> None:
    check_classes(cfg, datasets_of(cfg, *splits or ('train',)))


CONFIGS_TABLE = {
    'option: misspelt setting': (
        option(train_cfg__max_iter=2),
        "train_cfg has no 'max_iter', did you mean 'max_iters'?",
    ),
    'option: misspelt part': (
        option(model__decod_head__num_classes=2),
        "model has no 'decod_head', did you mean 'decode_head'?",
    ),
    'option: misspelt section': (
        option(modle__pretrained=None),
        "the config has no setting 'modle', did you mean 'model'?",
    ),
    'option: section of nobody': (option(batch_sise=3), "no setting 'batch_sise'"),
    'option: beyond a list': (
        option(param_scheduler__3__power=1),
        'param_scheduler is a list of 1, its entries are param_scheduler.0 to',
    ),
    'option: below a number': (
        option(train_cfg__max_iters__x=1),
        'train_cfg.max_iters is 120, which has no settings',
    ),
    'misspelt head': (
        changed(lambda cfg: cfg.model.decode_head.update(type='EAHed')),
        "model.decode_head: the type 'EAHed' is not registered, did you mean 'EAHead'?",
    ),
    'misspelt transform': (
        changed(lambda c: c.train_dataloader.dataset.pipeline[2].update(type='Resise')),
        "pipeline.2: the type 'Resise' is not registered, did you mean 'Resize",
    ),
    'misspelt hook': (
        changed(lambda cfg: cfg.default_hooks.logger.update(type='LoggrHook')),
        "default_hooks.logger: the type 'LoggrHook'",
        "'LoggerHook'",
    ),
    'misspelt setting of a head': (
        changed(lambda cfg: cfg.model.decode_head.update(attn_channel=8)),
        "EAHead has no setting 'attn_channel', did you mean 'attn_channels'?",
    ),
    'misspelt setting of a backbone': (
        changed(lambda cfg: cfg.model.backbone.update(norm_evl=True)),
        "has no setting 'norm_evl', did you mean 'norm_eval'?",
    ),
    'misspelt setting of a data set': (
        changed(lambda cfg: cfg.train_dataloader.dataset.update(img_sufix='.png')),
        "ADE20KDataset has no setting 'img_sufix'",
    ),
    'classes of head and data differ': (
        changed(lambda c: c.model.decode_head.update(num_classes=7), classes_fit),
        'model.decode_head has num_classes=7 and the data set ADE20KDataset 15',
    ),
}


@table(CONFIGS_TABLE)
def test_configs(make, parts, repo, monkeypatch):
    monkeypatch.chdir(repo)
    assert '\n' not in refused(make, *parts)


FILES_OF_CONFIGS = {
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
    'missing data root': (
        lambda path: check_data(
            read_config('configs/eanet_r18_demo.py', None, str(path / 'no')), 'train'
        ),
        'MISSING',
        '--data-root DIR',
    ),
}


@table(FILES_OF_CONFIGS)
def test_files_of_configs(make, parts, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(repo)
    refused(lambda: make(tmp_path), *parts)


def test_work_folder_that_cannot_be_made(repo, tmp_path, monkeypatch):
    monkeypatch.chdir(repo)
    (tmp_path / 'file').touch()
    cfg = demo(work_dir=str(tmp_path / 'file/work'))
    refused(lambda: check_run(cfg, 'train'), 'cannot write to the work folder')


def test_options_that_are_new_but_right_pass(repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = demo(
        **{
            'randomness.deterministic': True,
            'train_dataloader.prefetch_factor': 2,
            'default_hooks.checkpoint.max_keep_ckpts': 1,
        }
    )
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 1


@pytest.mark.parametrize(
    'key',
    [
        'model.decode_head.out_channels',  # beside attn_channels
        'model.auxiliary_head.out_channels',
        'model.backbone.in_channels',  # beside stem_channels
        'optim_wrapper.paramwise_cfg.bias_lr_mult',  # beside others, in no class
        'find_unused_parameters',
        'model_wrapper_cfg.find_unused_parameters',
    ],
)
def test_options_that_are_like_others_but_right_pass(key, repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = demo()
    cfg.optim_wrapper.paramwise_cfg = dict(bias_decay_mult=0.0)
    check_options(cfg, {key: 1})


def test_options_of_a_class_that_comes_with_them_pass(repo, monkeypatch):
    monkeypatch.chdir(repo)
    loop = {'train_cfg.type': 'EpochBasedTrainLoop', 'train_cfg.max_epochs': 2}
    check_options(demo(), loop)


@pytest.mark.parametrize(
    ('change', 'splits'),
    [
        (dict(auxiliary_head=dict(type='STDCHead', num_classes=2)), ('train',)),
        (dict(text_encoder=dict(dataset_name='voc'), decode_head=7), ('train',)),
        (dict(language_model=dict(type='BertModel'), decode_head=7), ('train',)),
        (dict(decode_head=7), ('test',)),  # whose data has seven classes
    ],
)
def test_classes_that_differ_for_a_reason_pass(change, splits, repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = demo()
    if 'decode_head' in change:
        cfg.model.decode_head.num_classes = change.pop('decode_head')
    cfg.model.update(change)
    cfg.test_dataloader.dataset.metainfo = dict(classes=list('abcdefg'))
    if splits == ('test',):
        cfg.model.pop('auxiliary_head')
    classes_fit(cfg, *splits)


def test_one_output_tells_two_classes_apart(repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = demo()
    for name in ('decode_head', 'auxiliary_head'):
        cfg.model[name].update(num_classes=1, out_channels=1)
    cfg.train_dataloader.dataset.metainfo = dict(classes=('background', 'road'))
    classes_fit(cfg)


def test_only_what_is_used_is_checked(repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = demo()
    cfg.test_evaluator.type = 'IoUMetrics'
    check_config(cfg, 'train', 'val')
    refused(lambda: check_config(cfg, 'test'), "did you mean 'IoUMetric'?")


def test_transforms_of_albumentations_are_left_to_it(repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = demo()
    rotate = dict(type='RandomRotate90', prob=1)  # mmseg has `RandomRotate`
    for kind in ('Albu', 'mmdet.Albu'):
        step = dict(type=kind, transforms=[rotate])
        cfg.train_dataloader.dataset.pipeline.append(step)
    whole_config(cfg)
    cfg.train_dataloader.dataset.pipeline.append(rotate)
    refused(lambda: whole_config(cfg), "did you mean 'RandomRotate'?")


# Stock configs that earlier checks refused, by mistake.
STOCK = {
    'mmdet': (
        'albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py',
        'glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py',
        'mm_grounding_dino/rtts/grounding_dino_swin-t_finetune_8xb4_1x_rtts.py',
        'bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py',
    ),
    'mmpretrain': (
        'resnest/resnest50_32xb64_in1k.py',
        'blip/blip-base_8xb16_refcoco.py',
    ),
    'mmseg': (
        'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
        'san/san-vit-b16_voc12aug-640x640.py',
        'stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
        'swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py',
    ),
}
# It names an evaluator that mmdet has not: 'MOTChallengeMetrics'.
NO_EVALUATOR = 'crowdhuman-mot20train_test-mot20test.py'


def read(path: Path) -> Config:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return Config.fromfile(path)


def passes(cfg: Config) -> None:
    for splits in (('train', 'val'), ('test',)):
        if splits == ('test',) and cfg.filename.endswith(NO_EVALUATOR):
            continue
        check_config(cfg, *splits)
        classes_fit(cfg, *splits)


def stock_configs(package: str) -> Path:
    folder = Path(__import__(package).__file__).parent / '.mim/configs'
    if not folder.is_dir():
        pytest.skip(f'{package} has no configs here')
    return folder


@pytest.mark.parametrize(
    ('package', 'name'),
    [(package, name) for package in STOCK for name in STOCK[package]],
)
def test_stock_configs_pass(package, name):
    path = stock_configs(package) / name
    if not path.exists():
        pytest.skip(f'this {package} has no {name}')
    passes(read(path))


def test_shipped_configs_pass(repo):
    for path in sorted((repo / 'configs').glob('*.py'))[:: 1 if SOAK else 16]:
        passes(read(path))


@pytest.mark.skipif(not SOAK, reason='long: SOAK=1 runs it')
@pytest.mark.parametrize('package', STOCK)
def test_all_stock_configs_pass(package):
    folder, count = stock_configs(package), 0
    for path in sorted(folder.rglob('*.py')):
        if '_base_' in path.parts:
            continue
        try:
            cfg = read(path)
        except (FileNotFoundError, KeyError, RuntimeError):
            continue  # broken upstream: a base that is not there, two styles mixed
        passes(cfg)
        count += 1
    assert count > 200


# Checkpoints


def checkpoint(path, content) -> str:
    file = str(path / 'checkpoint.pth')
    torch.save(content, file)
    return file


def file_of(path, content: bytes) -> str:
    (path / 'checkpoint.pth').write_bytes(content)
    return str(path / 'checkpoint.pth')


def truncated(path) -> str:
    file = checkpoint(path, nn.Linear(9, 9).state_dict())
    with open(file, 'r+b') as opened:
        opened.truncate(300)
    return file


def fits(path, content, check=fit_weights):
    check(nn.Linear(2, 3), load_from_local(checkpoint(path, content)), 'c.pth')


CHECKPOINTS_TABLE = {
    'checkpoint: missing': (lambda p: check_weights(str(p / 'no')), 'no checkpoint'),
    'checkpoint: folder': (lambda p: check_weights(str(p)), 'there is no checkpoint'),
    'checkpoint: empty': (lambda p: check_weights(file_of(p, b'')), 'ends too early'),
    'checkpoint: text': (
        lambda p: check_weights(file_of(p, b'weights\n')),
        'is refused',
    ),
    'checkpoint: cut off': (lambda p: check_weights(truncated(p)), 'damaged'),
    'checkpoint: no weights': (
        lambda p: check_weights(checkpoint(p, dict(state_dict={}, meta={}))),
        'holds no weights',
    ),
    'checkpoint: a list': (
        lambda p: check_weights(checkpoint(p, [1, 2])),
        'holds no weights: expected a state_dict of tensors, got list',
    ),
    'checkpoint: of another model': (
        lambda p: fits(p, nn.Conv2d(1, 1, 1).state_dict() | {'x': torch.ones(1)}),
        'does not fit the config',
    ),
    'checkpoint: lacks weights': (
        lambda p: fits(p, {'weight': torch.ones(3, 2)}),
        'bias is missing in the checkpoint',
    ),
    'checkpoint: weights of another shape': (
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


def cut(path: str, kept: float) -> str:
    with open(path, 'r+b') as file:
        file.truncate(int(file.seek(0, 2) * kept))
    return path


def text(path, name: str) -> str:
    (path / name).write_text('this is no image\n')
    return str(path / name)


def empty(path, name: str) -> str:
    (path / name).touch()
    return str(path / name)


def labels(path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path / 'labels.png')
    return str(path / 'labels.png')


FINE = np.zeros((30, 40), np.uint8)


def check(image_path, label_path=None):
    CheckFiles()(dict(img_path=image_path, seg_map_path=label_path))


IMAGES_TABLE = {
    'image: cut off JPEG': (lambda p: check(cut(image(p), 0.6)), 'cut off', 'JPEG'),
    'image: JPEG without its last rows': (
        lambda p: check(cut(image(p, size=(400, 300)), 0.9)),
        'image.jpg is cut off',
    ),
    'image: cut off PNG': (
        lambda p: check(cut(image(p, name='a.png'), 0.6)),
        'a.png is cut off: a PNG without its end',
    ),
    'image: zero bytes': (lambda p: check(empty(p, 'a.jpg')), 'a.jpg is empty (0 b'),
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
        "expected class indices up to 255, got 300 (mode 'I;16')",
    ),
    'labels: cut off': (
        lambda p: check(image(p), cut(labels(p, FINE), 0.5)),
        'labels.png is',
    ),
    'labels: zero bytes': (
        lambda p: check(image(p), empty(p, 'l.png')),
        'l.png is empty',
    ),
    'labels: text': (lambda p: check(image(p), text(p, 'l.png')), 'not an image'),
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


def test_label_maps_with_palette_and_turned_photos_pass(tmp_path):
    indices = Image.fromarray(FINE, 'P')
    indices.putpalette(list(range(9)))
    indices.save(tmp_path / 'p.png')
    check(image(tmp_path), str(tmp_path / 'p.png'))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    turned = image(tmp_path, size=(30, 40), name='turned.jpg', exif=exif)
    check(turned, str(tmp_path / 'p.png'))


def append(path: str, content: bytes) -> str:
    with open(path, 'ab') as file:
        file.write(content)
    return path


def without_end(path: str) -> str:
    content = Path(path).read_bytes()
    assert content.endswith(b'\xff\xd9')
    Path(path).write_bytes(content[:-2])
    return path


def header(path, width: int, height: int) -> str:
    """A PNG of any size without its pixels."""
    content = Path(image(path, 'L', name='small.png')).read_bytes()
    size = b'IHDR' + struct.pack('>II', width, height) + content[24:29]
    rest = struct.pack('>I', zlib.crc32(size)) + content[33:]
    (path / 'large.png').write_bytes(content[:12] + size + rest)
    return str(path / 'large.png')


WHOLE_IMAGES = {
    'video behind the picture': lambda p: append(image(p), bytes(200_000)),
    'without the two bytes of its end': lambda p: without_end(image(p)),
    'more pixels than PIL likes': lambda p: header(p, 14000, 13000),
    'PNG without its last chunk': lambda p: cut_chunk(image(p, name='a.png')),
}


def cut_chunk(path: str) -> str:
    Path(path).write_bytes(Path(path).read_bytes()[:-12])
    return path


@pytest.mark.parametrize('make', WHOLE_IMAGES.values(), ids=WHOLE_IMAGES)
def test_odd_but_whole_images_pass(make, tmp_path):
    check(make(tmp_path))


def test_label_maps_of_16_bit_with_small_values_pass(tmp_path):
    check(image(tmp_path), labels(tmp_path, FINE.astype(np.uint16) + 5))


def test_photos_that_are_not_turned_as_they_are_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sample = dict(
        img_path=image(tmp_path, exif=exif), seg_map_path=labels(tmp_path, FINE)
    )
    CheckFiles(turned=False)(sample)
    refused(lambda: CheckFiles()(sample), 'they must be of one size')


@pytest.mark.parametrize(
    ('load', 'turned'),
    [
        ({}, True),
        (dict(imdecode_backend='pillow'), True),
        (dict(imdecode_backend='turbojpeg'), False),
        (dict(color_type='color_ignore_orientation'), False),
        (dict(color_type='unchanged'), False),
    ],
)
def test_what_turns_photos(load, turned):
    assert is_turned_by(dict(type='LoadImageFromFile', **load)) == turned


# Annotations in COCO's format


def coco(path, change=lambda content: None, cut_to: int | None = None) -> str:
    """Writes annotations of two images and three boxes, and what is wrong with them."""
    for number in (1, 2):
        (path / f'{number}.jpg').touch()
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


def of_coco(change, **options):
    """Checks annotations after ``change(first annotation, content)``."""

    def make(path):
        file = coco(path, lambda content: change(content['annotations'][0], content))
        return check_coco(file, options.get('classes', ('cat', 'dog')), path)

    return make


NAN, INF = float('nan'), float('inf')
COCO_TABLE = {
    'json: empty file': (
        lambda p: check_coco(empty(p, 'a.json')),
        'a.json is empty: expected annotations in COCO format',
    ),
    'json: cut off': (lambda p: check_coco(coco(p, cut_to=200)), 'or is cut off'),
    'json: a list': (
        lambda p: [(p / 'a.json').write_text('[]'), check_coco(p / 'a.json')],
        'a.json has no list of images, annotations, categories',
    ),
    'json: no categories': (
        of_coco(lambda a, c: c.pop('categories')),
        'has no list of categories',
    ),
    'json: image without size': (
        of_coco(lambda a, c: c['images'][1].pop('height')),
        'images[1] has no height',
    ),
    'json: annotation without box': (
        of_coco(lambda a, c: a.pop('bbox')),
        'annotations[0] has no bbox',
    ),
    'json: image ids twice': (
        of_coco(lambda a, c: c['images'][1].update(id=1)),
        'the id 1 is there twice in images',
    ),
    'json: annotation ids twice': (
        of_coco(lambda a, c: a.update(id=2)),
        'the id 2 is there twice in annotations',
    ),
    'json: category ids twice': (
        of_coco(lambda a, c: c['categories'][1].update(id=1)),
        'the id 1 is there twice in categories',
    ),
    'json: image that is not there': (
        of_coco(lambda a, c: c['images'][1].update(file_name='no.jpg')),
        'names 1 of 2 images that are not in',
        'no.jpg',
    ),
    'json: unknown category': (
        of_coco(lambda a, c: a.update(category_id=3)),
        'annotation 0 is of the category 3, which is not in categories [1, 7]',
    ),
    'json: NaN box': (
        of_coco(lambda a, c: a.update(bbox=[1, float('nan'), 5, 5])),
        'annotation 0 has the box [1, nan, 5, 5], expected four finite numbers',
    ),
    'json: box of three numbers': (
        of_coco(lambda a, c: a.update(bbox=[1, 2, 3])),
        'expected four finite numbers',
    ),
    'json: box of text': (
        of_coco(lambda a, c: a.update(bbox=['1', '2', '3', '4'])),
        'expected four finite numbers',
    ),
    'json: image that is a number': (
        of_coco(lambda a, c: c['images'].append(3)),
        'images[2] is 3, expected an object',
    ),
    'json: annotation that is a number': (
        of_coco(lambda a, c: c['annotations'].append(3)),
        'annotations[3] is 3, expected an object',
    ),
    'json: image without name': (
        of_coco(lambda a, c: c['images'][0].update(file_name=None)),
        'image 1 has the file_name None',
    ),
    'json: height that is null': (
        of_coco(lambda a, c: c['images'][0].update(height=None)),
        'image 1 has the height None and the width 100, expected numbers',
    ),
    'json: height that is text': (
        of_coco(lambda a, c: c['images'][0].update(height='100')),
        "image 1 has the height '100'",
    ),
    'json: area that is null': (
        of_coco(lambda a, c: a.update(area=None)),
        'annotation 0 has the area None, expected a finite number',
    ),
    'json: NaN area': (of_coco(lambda a, c: a.update(area=NAN)), 'has the area nan'),
    'json: polygon without a list around it': (
        of_coco(lambda a, c: a.update(segmentation=[1, 1, 5, 1, 5, 5])),
        'annotation 0 has the segmentation [1, 1, 5, 1, 5, 5], expected lists of',
    ),
    'json: NaN in a polygon': (
        of_coco(lambda a, c: a.update(segmentation=[[1, 1, 5, 1, 5, NAN]])),
        'annotation 0 has the segmentation',
    ),
    'json: text in a polygon': (
        of_coco(lambda a, c: a.update(segmentation=[[1, 1, 5, 1, 5, '5']])),
        'annotation 0 has the segmentation',
    ),
    'json: run lengths that do not add up': (
        of_coco(lambda a, c: a.update(segmentation=dict(size=[9, 9], counts=[80]))),
        'run lengths that add up to their size',
    ),
    'json: run lengths that are no code': (
        of_coco(lambda a, c: a.update(segmentation=dict(size=[9, 9], counts='a b'))),
        'annotation 0 has the segmentation',
    ),
    'json: id that is a list': (
        of_coco(lambda a, c: a.update(id=[1])),
        'annotations.json has a value of a wrong kind',
    ),
    'classes: not in the file': (
        of_coco(lambda a, c: None, classes=('cat', 'dgo')),
        "has no category 'dgo'",
    ),
    'classes: misspelt': (
        of_coco(
            lambda a, c: c['categories'][1].update(name='giraffe'), classes=('girafe',)
        ),
        "did you mean 'giraffe'?",
    ),
    'classes: in another order': (
        of_coco(lambda a, c: None, classes=('dog', 'cat')),
        'has its categories in the order cat, dog, the config has dog, cat',
    ),
    'json: no annotations': (
        of_coco(lambda a, c: c['annotations'].clear()),
        'nothing to learn from: none of its 0 annotations is left',
    ),
    'json: no annotation is left': (
        of_coco(lambda a, c: [x.update(area=0) for x in c['annotations']]),
        'nothing to learn from: none of its 3 annotations',
        "'boxes without size': 3",
    ),
}


@table(COCO_TABLE)
def test_annotations(make, parts, tmp_path):
    assert '\n' not in refused(lambda: make(tmp_path), *parts)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(bbox=[10, 10, 0, 20]), 'boxes without size'),
        (dict(bbox=[10, 10, -5, 20]), 'boxes without size'),
        (dict(area=0), 'boxes without size'),
        (dict(bbox=[200, 10, 5, 5]), 'boxes outside of the image'),
        (dict(segmentation=[[1, 2, 3, 4]]), 'polygons of less than three points'),
        (dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), 'polygons of less than'),
        (dict(image_id=99), 'of images that are not in the file'),
        (dict(segmentation=dict(size=[9, 9])), 'masks without counts or size'),
    ],
)
def test_annotations_that_are_left_out_are_counted(change, reason, tmp_path):
    counts = of_coco(lambda a, c: a.update(change))(tmp_path)
    assert re.fullmatch(
        f'a.json: 3 annotations of 2 images, left out: 1 {reason}.*',
        summary('a.json', counts),
    )


def test_classes_that_the_config_leaves_out_are_counted(tmp_path):
    counts = of_coco(lambda a, c: None, classes=('dog',))(tmp_path)
    assert counts['of classes that the config does not name'] == 2


def test_right_annotations_pass(tmp_path):
    assert check_coco(coco(tmp_path), ('cat', 'dog'), tmp_path) == dict(
        images=2, annotations=3
    )


@pytest.mark.parametrize(
    'mask', [dict(size=[9, 9], counts=[80, 1]), dict(size=[9, 9], counts='`0a0'), None]
)
def test_masks_of_run_lengths_pass(mask, tmp_path):
    assert len(of_coco(lambda a, c: a.update(segmentation=mask))(tmp_path)) == 2


def of_dataset(path, **options) -> dict:
    metainfo = dict(classes=('cat', 'dog'))
    root = str(path)
    return dict(type='CocoDataset', data_root=root, metainfo=metainfo, **options)


def test_masks_are_checked_where_they_are_read(tmp_path):
    boxes = [[1, 1, 5, 5]]
    name = Path(
        coco(tmp_path, lambda c: c['annotations'][0].update(segmentation=boxes))
    )
    for with_mask, expected in (
        (True, {'polygons of less than three points'}),
        (False, set()),
    ):
        load = dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)
        dataset = of_dataset(tmp_path, ann_file=name.name, pipeline=[load])
        left_out = set(check_annotations(dataset, Config())) - {'images', 'annotations'}
        assert left_out == expected


def test_a_file_of_backgrounds_passes_where_empty_images_are_kept(tmp_path):
    name = Path(coco(tmp_path, lambda content: content['annotations'].clear())).name
    for filter_cfg in (None, dict(filter_empty_gt=False)):
        dataset = of_dataset(tmp_path, ann_file=name, filter_cfg=filter_cfg)
        assert check_annotations(dataset, Config()) == dict(images=2, annotations=0)
    dataset['filter_cfg'] = dict(filter_empty_gt=True)
    refused(lambda: check_annotations(dataset, Config()), 'nothing to learn from')


@pytest.mark.parametrize('given', [dict(img_suffix='.jpg'), {}])
def test_a_folder_without_images_of_the_suffix(given, tmp_path):
    (tmp_path / 'train').mkdir()
    Image.new('RGB', (4, 4)).save(tmp_path / 'train/0.png')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='train'),
    )
    with pytest.raises(DataError, match=r'train: no file ends in \.jpg'):
        check_folder(dataset | given, 'mmseg')
    check_folder(dict(dataset, img_suffix='.png'), 'mmseg')


def test_images_that_are_elsewhere_are_not_looked_for(tmp_path):
    name = Path(coco(tmp_path)).name
    for options in (dict(data_prefix='s3://x/'), dict(backend_args=dict(backend='s3'))):
        dataset = of_dataset(tmp_path, ann_file=name, **options)
        (tmp_path / '1.jpg').unlink(missing_ok=True)
        assert check_annotations(dataset, Config())['images'] == 2


@pytest.mark.parametrize('kind', ['CocoDataset', 'mmdet.CocoDataset', CocoDataset])
def test_kinds_of_data_sets_are_known_in_all_styles(kind, tmp_path):
    name = Path(coco(tmp_path)).name
    dataset = ConfigDict(of_dataset(tmp_path, ann_file=name), type=kind)
    assert check_annotations(dataset, Config())['annotations'] == 3


# Lists of classified images


def listed(content: str):
    def make(path):
        (path / 'a.jpg').touch()
        (path / 'list.txt').write_text(content)
        return check_image_list(path / 'list.txt', path, 10)

    return make


LISTS_TABLE = {
    'list: empty': (listed(''), 'list.txt is empty'),
    'list: no label': (listed('a.jpg\n'), 'list.txt, line 1: expected', "'a.jpg'"),
    'list: label that is a name': (listed('a.jpg cat\n'), 'the index of its class'),
    'list: negative label': (listed('a.jpg -1\n'), "got 'a.jpg -1'"),
    'list: label above the classes': (
        listed('a.jpg 1\na.jpg 10\n'),
        'line 2: a.jpg has the label 10, and the model has num_classes=10',
    ),
    'list: missing image': (listed('b.jpg 1\n'), 'names 1 of 1 images', 'b.jpg'),
}


@table(LISTS_TABLE)
def test_lists_of_images(make, parts, tmp_path):
    refused(lambda: make(tmp_path), *parts)


# Batches


class Segmentor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decode_head = nn.Identity()
        self.decode_head.num_classes, self.decode_head.ignore_index = 5, 255


class FakeRunner:
    model = Segmentor()
    iter = 6


def batch(pixels=0.0, label: int = 3) -> dict:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 4, 4), label)))
    sample.set_metainfo(dict(img_path='a.jpg', seg_map_path='a.png'))
    return dict(inputs=[torch.full((3, 4, 4), pixels)], data_samples=[sample])


def iterate(data: dict, **outputs: float) -> None:
    hook, runner = CheckBatchHook(), FakeRunner()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, data)
    losses = {key: torch.tensor(value) for key, value in outputs.items()}
    hook.after_train_iter(runner, 0, data, losses)


BATCHES_TABLE = {
    'batch: NaN image': (lambda: iterate(batch(NAN)), 'a.jpg has pixels that are NaN'),
    'batch: infinite image': (lambda: iterate(batch(INF)), 'a.jpg', 'infinite'),
    'batch: label above the classes': (
        lambda: iterate(batch(label=5)),
        'a.png has the label 5 at 16 places, and the model has num_classes=5',
    ),
    'batch: negative label': (
        lambda: iterate(batch(label=-2)),
        'a.png has the label -2',
    ),
    'batch: NaN loss': (
        lambda: iterate(batch(), loss=NAN, loss_ce=NAN),
        "iteration 7: {'loss': nan, 'loss_ce': nan} is no finite number",
        'lower learning rate',
        'a.jpg',
    ),
    'batch: infinite loss': (lambda: iterate(batch(), loss=INF), "{'loss': inf}"),
}


@table(BATCHES_TABLE)
def test_batches(make, parts):
    assert '\n' not in refused(make, *parts)


def test_right_and_ignored_labels_pass():
    iterate(batch(label=4), loss=1.0)
    iterate(batch(label=255), loss=0.0)


def test_one_output_has_two_labels(monkeypatch):
    head = FakeRunner.model.decode_head
    monkeypatch.setattr(head, 'num_classes', 1)
    refused(lambda: iterate(batch(label=1)), 'has the label 1 at 16 places')
    monkeypatch.setattr(head, 'out_channels', 1, raising=False)
    iterate(batch(label=1), loss=1.0)
    refused(lambda: iterate(batch(label=2)), 'has the label 2 at 16 places')


# Together


def test_what_the_tools_check_and_add(repo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repo)
    cfg = read_config('configs/mask-rcnn_lesa-r50_coco.py')
    cfg.work_dir = str(tmp_path / 'work')
    dataset = cfg.train_dataloader.dataset
    dataset.update(
        data_root=str(tmp_path),
        ann_file='annotations.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat', 'dog')),
    )
    coco(tmp_path, lambda content: content['annotations'][0].update(area=0))
    refused(lambda: check_run(cfg, 'train'), 'roi_head.bbox_head has num_classes=80')
    cfg.model.roi_head.bbox_head.num_classes = 2
    cfg.model.roi_head.mask_head.num_classes = 2
    check_run(cfg, 'train')
    said = capsys.readouterr().err
    assert said == (
        'annotations.json: 3 annotations of 2 images, left out: 1 boxes without size\n'
    )
    assert dataset.pipeline[0] == dict(type='CheckFiles', labels=True, turned=True)
    assert [hook['type'] for hook in cfg.custom_hooks[-2:]] == [
        'CheckWeightsHook',
        'CheckBatchHook',
    ]
    coco(tmp_path, lambda content: content['annotations'][0].update(bbox=None))
    refused(lambda: check_run(cfg, 'train'), 'annotation 0 has the box None')


def test_what_is_checked_in_all_styles(repo, tmp_path, monkeypatch, capsys):
    """Names with a scope, classes; only the first of several processes speaks."""
    monkeypatch.chdir(repo)
    monkeypatch.setenv('RANK', '1')
    cfg = read_config('configs/mask-rcnn_lesa-r50_coco.py')
    cfg.work_dir = str(tmp_path / 'work')
    cfg.custom_imports = dict(imports='mmdet.models')
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = 2
    dataset = cfg.train_dataloader.dataset
    dataset.update(of_dataset(tmp_path, ann_file=Path(coco(tmp_path)).name))
    dataset.pipeline[0].type = 'mmengine.LoadImageFromFile'
    dataset.pipeline[0].imdecode_backend = 'turbojpeg'
    dataset.pipeline[1].type = LoadAnnotations
    check_run(cfg, 'train')
    assert capsys.readouterr().err == ''
    check_files = dict(type='CheckFiles', labels=True, turned=False)
    assert dataset.pipeline[0] == check_files
    assert cfg.custom_imports['imports'] == ['mmdet.models', 'attn_plugins']


def test_an_error_in_a_worker_is_one_line():
    trace = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most '
        'recent call last):\n  File "x.py"\n'
        'attn_plugins.mm.datasets.dataset_checks.DataError: a.jpg is cut off: a JPEG\n'
    )
    with (
        pytest.raises(SystemExit, match=r'error: a\.jpg is cut off: a JPEG$'),
        one_line_errors(),
    ):
        raise DataError(trace)


def test_there_are_sixty_kinds():
    tables = [rows for name, rows in globals().items() if name.endswith('_TABLE')]
    assert sum(map(len, [*tables, FILES_OF_CONFIGS])) >= 60
