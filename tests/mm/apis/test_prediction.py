"""Predictions of all three hosts, from tiny models; checkpoints that do not fit."""

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from PIL import Image
from pycocotools.coco import COCO

from attn_plugins.mm.apis.launch import LaunchError, read_config
from attn_plugins.mm.apis.maps import attention_of, draw_sheets
from attn_plugins.mm.apis.prediction import (
    Predictor,
    list_images,
    load_weights,
    point_in_input,
    read_image,
    video_frames,
    writable_folder,
)
from attn_plugins.mm.apis.results import ResultWriter

CLASSES = ('cat', 'dog', 'cow')
PALETTE = [(220, 20, 60), (0, 60, 200), (255, 200, 0)]
DETECTOR = f"""
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['attn_plugins'])
thin = dict(in_channels=16)
model = dict(
    backbone=dict(type='LESAResNet', depth=18, base_channels=8, init_cfg=None,
        attn=dict(num_heads=4), rel_pos_input_size=64),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(thin, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(thin, fc_out_channels=16, num_classes=3),
        mask_head=dict(thin, conv_out_channels=8, num_convs=1, num_classes=3)),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=4)))
pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(80, 60), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape',
        'img_shape', 'scale_factor'))]
test_dataloader = dict(dataset=dict(pipeline=pipeline,
    metainfo=dict(classes={CLASSES}, palette={PALETTE})))
"""
CLASSIFIER = f"""
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(type='GSAResNet', base_channels=8, rel_pos_input_size=64,
        stage_with_attn=(False, False, False, True)),
    head=dict(num_classes=3, in_channels=64, topk=(1,)))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=48, edge='short'),
    dict(type='CenterCrop', crop_size=32),
    dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(pipeline=pipeline,
    metainfo=dict(classes={CLASSES})))
"""


def build(repo, folder, task: str) -> Predictor:
    torch.manual_seed(0)
    if task == 'segmentation':
        return Predictor(read_config(str(repo / 'configs/eanet_r18_demo.py')))
    path = folder / f'{task}.py'
    path.write_text({'detection': DETECTOR, 'classification': CLASSIFIER}[task])
    return Predictor(read_config(str(path)))


@pytest.fixture(scope='module')
def predictors(repo, tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    tasks = ('detection', 'segmentation', 'classification')
    return {task: build(repo, folder, task) for task in tasks}


@pytest.fixture
def image():
    """60 x 100 (H, W), blue on top, red below: in BGR."""
    image = np.zeros((60, 100, 3), np.uint8)
    image[:30, :, 0] = 250
    image[30:, :, 2] = 250
    return image


def test_classes_and_colours_are_those_of_the_config(predictors):
    assert predictors['detection'].classes == CLASSES
    assert predictors['detection'].palette == PALETTE
    assert predictors['classification'].classes == CLASSES
    segmentor = predictors['segmentation']
    assert segmentor.classes[0] == 'wall'
    assert len(segmentor.classes) == len(segmentor.palette) == 15
    for predictor in predictors.values():
        assert not predictor.trained
        assert not predictor.model.training


def test_detections_are_coco(predictors, image, tmp_path, monkeypatch):
    monkeypatch.setattr(predictors['detection'], 'trained', True)
    writer = ResultWriter(tmp_path, predictors['detection'], score=0)
    sample = predictors['detection'].predict(image)
    for name in ('first', 'second'):
        writer.add(name, image, sample, f'{name}.jpg')
    coco = COCO(str(writer.close()))
    assert [i['file_name'] for i in coco.imgs.values()] == ['first.jpg', 'second.jpg']
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    found = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert len(found) == len(sample.pred_instances) > 0
    for index, annotation in enumerate(found):
        left, top, width, height = annotation['bbox']
        box = sample.pred_instances.bboxes[index].tolist()
        assert [left, top, left + width, top + height] == pytest.approx(box)
        assert annotation['category_id'] == sample.pred_instances.labels[index] + 1
        mask = coco.annToMask(annotation)
        assert mask.shape == (60, 100)
        np.testing.assert_array_equal(mask, sample.pred_instances.masks[index])
    assert cv2.imread(str(tmp_path / 'vis/first.png')).shape == (60, 100, 3)


def test_masks_hold_class_indices(predictors, image, tmp_path):
    segmentor = predictors['segmentation']
    writer = ResultWriter(tmp_path, segmentor)
    sample = segmentor.predict(image)
    writer.add('first', image, sample)
    classes = json.loads(writer.close().read_text())['classes']
    assert classes[3] == dict(index=3, name='floor', colour=[146, 73, 0])
    mask = Image.open(tmp_path / 'masks/first.png')
    expected = sample.pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(np.asarray(mask), expected)
    colour = np.asarray(mask.convert('RGB'))[0, 0].tolist()
    assert tuple(colour) == segmentor.palette[expected[0, 0]]
    assert cv2.imread(str(tmp_path / 'vis/first.png')).shape[1] == 640


def test_masks_of_many_classes_have_16_bits(predictors, image, tmp_path, monkeypatch):
    segmentor = predictors['segmentation']
    monkeypatch.setattr(segmentor, 'classes', tuple(map(str, range(300))))
    monkeypatch.setattr(segmentor, 'palette', [(1, 2, 3)] * 300)
    sample = segmentor.predict(image)
    sample.pred_sem_seg.data[...] = 299
    writer = ResultWriter(tmp_path, segmentor)
    writer.add('first', image, sample)
    assert np.unique(np.asarray(Image.open(tmp_path / 'masks/first.png'))) == [299]
    assert cv2.imread(str(tmp_path / 'vis/first.png')).shape[1] == 640


def test_classes_come_best_first(predictors, image, tmp_path):
    writer = ResultWriter(tmp_path, predictors['classification'])
    sample = predictors['classification'].predict(image)
    writer.add('first', image, sample, 'first.jpg')
    (entry,) = json.loads(writer.close().read_text())['images']
    assert entry['file_name'] == 'first.jpg'
    scores = [best['score'] for best in entry['best']]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    best = entry['best'][0]
    assert CLASSES[best['label']] == best['name']
    assert best['label'] == sample.pred_label.item()


@pytest.mark.parametrize('task', ['detection', 'segmentation', 'classification'])
def test_untrained_predictions_say_so(predictors, image, task, tmp_path, monkeypatch):
    predictor = predictors[task]
    sample = predictor.predict(image)
    pictures = {}
    for trained in (False, True):
        monkeypatch.setattr(predictor, 'trained', trained)
        writer = ResultWriter(tmp_path / str(trained), predictor)
        writer.add('first', image, sample)
        assert json.loads(writer.close().read_text())['trained'] == trained
        picture = cv2.imread(str(tmp_path / f'{trained}/vis/first.png'))
        pictures[trained] = picture[..., ::-1]
    height, width = pictures[True].shape[:2]
    # mmdet's drawing differs by a little from time to time.
    above = pictures[False][:height, :width].astype(int)
    np.testing.assert_allclose(above, pictures[True], atol=8)
    strip = pictures[False][height:]
    assert strip.shape[1] == max(width, 320)
    # Its letters are in the colour of warnings.
    assert (strip == (0xB3, 0x47, 0)).all(-1).sum() > 50


def test_small_classified_images_are_enlarged_with_classes_below(predictors, image):
    classifier = predictors['classification']
    sample = classifier.predict(image)
    painted = classifier.paint(image, sample)
    assert painted.shape[0] > 192 + 3 * 14  # of an image of 60 x 100, and three classes
    assert painted.shape[1] == 320
    assert painted[:90].mean((0, 1)).tolist() == pytest.approx([0, 0, 250], abs=1)
    below = painted[192:]
    assert (below == below[..., :1]).all()  # black on white
    assert below.min() < 60 < 200 < below.mean()
    large = np.zeros((350, 20, 3), np.uint8)
    painted = classifier.paint(large, sample)
    assert painted.shape[1] == 320  # white beside it
    assert (painted[:350, :20] == 0).all()
    assert (painted[:350, 20:] == 255).all()


@pytest.mark.parametrize('task', ['detection', 'segmentation', 'classification'])
def test_attention_lies_over_what_the_network_got(predictors, image, task):
    """In its colours, too."""
    found = attention_of(predictors[task], image, [(50, 10)], num_slots=2)
    top, bottom = found.image[4], found.image[int(0.6 * len(found.image))]
    assert top[:, 2].mean() > 200 > 100 > top[:, 0].mean()
    assert bottom[:, 0].mean() > 200 > 100 > bottom[:, 2].mean()
    x, y = found.points[0]
    row = int(y * found.image.shape[0])
    assert found.image[row, int(x * found.image.shape[1]), 2] > 200
    expected = {
        'detection': [f'backbone.layer{name}.conv2' for name in ('3.1', '4.0', '4.1')],
        'segmentation': ['decode_head.attn'],
        'classification': ['backbone.layer4.0.conv2', 'backbone.layer4.1.conv2'],
    }[task]
    assert [layer.name for layer in found.layers] == expected
    sheets = [name for name, _, _ in draw_sheets(found)]
    assert sheets == ['gates'] * (task == 'detection') + expected


def test_a_network_that_gets_bgr_is_shown_in_rgb():
    class Stub:
        takes_rgb, feeds_bgr = False, True

        class model:  # noqa: N801
            data_preprocessor = None

    shown = Predictor.shown(Stub, torch.tensor([250.0, 100, 0]).view(3, 1, 1))
    assert shown.tolist() == [[[0, 100, 250]]]


@pytest.mark.parametrize('to_rgb', [False, True])
def test_arrays_of_data_sets_are_rgb(repo, image, tmp_path, to_rgb):
    """As those of CIFAR are, whose test pipeline does not begin with a file."""
    path = tmp_path / 'cifar.py'
    path.write_text(
        CLASSIFIER.replace("    dict(type='LoadImageFromFile'),\n", '')
        + f'data_preprocessor = dict(mean=[0] * 3, std=[1] * 3, to_rgb={to_rgb})\n'
    )
    predictor = Predictor(read_config(str(path)))
    got = []
    predictor.model.backbone.register_forward_pre_hook(
        lambda module, args: got.append(args[0])
    )
    found = attention_of(predictor, image)
    top = got[0][0, :, 4].mean(-1).tolist()  # blue
    assert top == pytest.approx([250, 0, 0] if to_rgb else [0, 0, 250])
    np.testing.assert_allclose(found.image[4].mean(0), [0, 0, 250])


def test_attention_errors_are_one_line(predictors, image):
    segmentor = predictors['segmentation']
    for options, expected in (
        (dict(layers=['nope']), 'The layers are: decode_head.attn'),
        (dict(slots=[64]), r'slots must lie in \[0, 64\)'),
        (dict(points=[(100, 5)]), '100 x 60 pixels'),
    ):
        with pytest.raises(LaunchError, match=expected):
            attention_of(segmentor, image, **options)


def test_crops_are_taken_whole(predictors, image, monkeypatch):
    segmentor = predictors['segmentation']
    settings = segmentor.model.test_cfg
    monkeypatch.setattr(
        segmentor.model,
        'test_cfg',
        type(settings)(settings, mode='slide', crop_size=(40, 40), stride=(20, 20)),
    )
    found = attention_of(segmentor, image, num_slots=1)
    assert 'taken whole' in found.notes[0]
    assert found.image.shape == (120, 160, 3)
    assert 'calls' not in found.layers[0].notes[0]


@pytest.mark.parametrize(
    ('point', 'shapes', 'expected'),
    [
        # Resized to half, padded below.
        (
            (10, 20),
            ((60, 100), (30, 50), (0.5, 0.5), (32, 64)),
            (5.25 / 64, 10.25 / 32),
        ),
        # The centre of an image that was made half as large.
        (
            (50, 30),
            ((60, 100), (20, 20), (0.5, 0.5), (20, 20)),
            (10.25 / 20, 10.25 / 20),
        ),
    ],
)
def test_point_in_input(point, shapes, expected):
    ori, img, scale, size = shapes
    sample = BaseDataElement(
        metainfo=dict(ori_shape=ori, img_shape=img, scale_factor=scale)
    )
    assert point_in_input(point, sample, size) == pytest.approx(expected)


def test_a_point_that_is_cut_off():
    sample = BaseDataElement(
        metainfo=dict(ori_shape=(60, 100), img_shape=(20, 20), scale_factor=(0.5, 0.5))
    )
    with pytest.raises(LaunchError, match='cut off by the test pipeline'):
        point_in_input((10, 30), sample, (20, 20))
    with pytest.raises(LaunchError, match='is not in the image'):
        point_in_input((100, 30), sample, (20, 20))


# --- checkpoints ---------------------------------------------------------------------


@pytest.fixture
def weights(predictors):
    state = predictors['segmentation'].model.state_dict()
    return {key: value.clone() for key, value in state.items()}


def save(folder, weights, **meta) -> str:
    path = str(folder / 'weights.pth')
    torch.save(dict(state_dict=weights, meta=meta), path)
    return path


def test_weights_that_fit(predictors, weights, tmp_path):
    model = predictors['segmentation'].model
    weights['decode_head.attn.key.weight'] += 1
    # What inference does not run may be missing, or be there in vain.
    del weights['auxiliary_head.conv_seg.bias']
    weights['auxiliary_head.other'] = torch.zeros(1)
    meta = dict(dataset_meta=dict(CLASSES=('a',), palette=None))
    path = save(tmp_path, {f'module.{k}': v for k, v in weights.items()}, **meta)
    before = model.decode_head.attn.key.weight.clone()
    assert load_weights(model, path) == {'classes': ('a',)}
    torch.testing.assert_close(model.decode_head.attn.key.weight, before + 1)


def test_the_first_five_differing_keys_are_named(predictors, weights, tmp_path):
    model = predictors['segmentation'].model
    keys = [key for key in weights if key.startswith('decode_head')]
    keys = [key for key in keys if not key.endswith('num_batches_tracked')]
    for key in keys[:7]:
        del weights[key]
    with pytest.raises(LaunchError) as caught:
        load_weights(model, save(tmp_path, weights))
    message = str(caught.value)
    assert '\n' not in message
    assert '7 key(s) differ' in message
    for key in keys[:5]:
        assert f'{key} is missing in the checkpoint' in message
    assert keys[5] not in message
    assert message.endswith('and 2 more')


def test_other_shapes_and_unknown_keys_are_named(predictors, weights, tmp_path):
    model = predictors['segmentation'].model
    path = save(tmp_path, {**weights, 'decode_head.more': torch.zeros(1)})
    with pytest.raises(LaunchError, match=r'decode_head\.more is not in the model$'):
        load_weights(model, path)
    weights['decode_head.attn.key.weight'] = torch.zeros(32, 256)
    with pytest.raises(
        LaunchError, match=r'attn\.key\.weight is \[32, 256\] .* and \[64, 256\] in the'
    ):
        load_weights(model, save(tmp_path, weights))


def test_a_damaged_checkpoint(predictors, tmp_path):
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'nothing')
    with pytest.raises(Exception, match=r'weights\.pth'):
        load_weights(predictors['segmentation'].model, str(path))


def test_a_config_of_no_host():
    with pytest.raises(LaunchError, match=r"default_scope must be one of .*'mmrotate'"):
        Predictor(Config(dict(default_scope='mmrotate')))
    with pytest.raises(LaunchError, match='no test_dataloader'):
        Predictor(Config(dict(default_scope='mmseg')))


# --- files ---------------------------------------------------------------------------


def test_images_of_a_folder(tmp_path):
    for name in ('b.PNG', 'a.jpg', 'notes.txt'):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ['a.jpg', 'b.PNG']
    assert list_images(tmp_path / 'a.jpg') == [tmp_path / 'a.jpg']


def test_bad_inputs(tmp_path):
    with pytest.raises(LaunchError, match='there is no image, folder or video'):
        list_images(tmp_path / 'nope')
    with pytest.raises(LaunchError, match='has no images'):
        list_images(tmp_path)
    with pytest.raises(LaunchError, match='there is no image'):
        read_image(tmp_path / 'nope.jpg')
    for name in ('empty.jpg', 'text.png', 'text.mp4'):
        (tmp_path / name).write_text('' if name == 'empty.jpg' else 'no pixels')
    for name in ('empty.jpg', 'text.png'):
        with pytest.raises(LaunchError, match='cannot be read as an image'):
            read_image(tmp_path / name)
    with pytest.raises(LaunchError, match='cannot be read as a video'):
        video_frames(tmp_path / 'text.mp4')


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / 'file').touch()
    for path in ('file', 'file/deeper'):
        with pytest.raises(LaunchError, match=rf'cannot write to the folder \S+{path}'):
            writable_folder(tmp_path / path)
    with pytest.raises(LaunchError, match='cannot write to the folder /proc/nope'):
        writable_folder('/proc/nope')
