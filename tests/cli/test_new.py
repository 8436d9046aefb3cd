"""`attn-plugins new`: what it makes of each kind of data, and that it trains."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
from mmengine.runner import Runner

from attn_plugins.cli import new
from attn_plugins.mm.apis.launch import LaunchError, check_data, read_config

XML = """<annotation><filename>{}.jpg</filename>
<size><width>64</width><height>48</height></size><object><name>nut</name><bndbox>
<xmin>5</xmin><ymin>6</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object></annotation>
"""


def draw(path, high, channels=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(0).integers(high, size=(48, 64, *channels))
    if not channels:
        picture[:3] = 255 if high > 3 else high
    Image.fromarray(picture.astype(np.uint8)).save(path)


def draw_images(folder, names=range(4)):
    for name in names:
        draw(folder / f'{name}.jpg', 256, (3,))


def draw_labels(folder, high, suffix='.png', names=range(4)):
    for name in names:
        draw(folder / f'{name}{suffix}', high)


def label_maps(root):
    """Names beside them, and one index without a name: void."""
    draw_images(root / 'images')
    draw_labels(root / 'masks', 3, '_mask.png')
    (root / 'classes.txt').write_text('sky\nsea\nland\n')
    return root


def two_parts(root):
    for name in ('train', 'val'):
        draw_images(root / name)
        draw_labels(root / f'{name}annot', 5)
    return root


def voc(root):
    draw_images(root / 'JPEGImages')
    draw_labels(root / 'SegmentationClass', 21)
    draw_labels(root / 'SegmentationObject', 21)
    lists = root / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('0\n1\n')
    (lists / 'val.txt').write_text('2\n')
    return root


def voc_boxes(root):
    draw_images(root / 'JPEGImages')
    (root / 'Annotations').mkdir()
    for name in range(4):
        (root / f'Annotations/{name}.xml').write_text(XML.format(name))
    return root


def coco(root, masks=True, file='annotations/all.json', images='images'):
    draw_images(root / images)
    common = dict(category_id=7, iscrowd=0, bbox=[5, 5, 30, 30], area=900)
    if masks:
        common['segmentation'] = [[5, 5, 35, 5, 35, 35]]
    content = dict(
        images=[
            dict(id=n, file_name=f'{n}.jpg', width=64, height=48) for n in range(4)
        ],
        annotations=[dict(common, id=n + 1, image_id=n) for n in range(4)],
        categories=[dict(id=7, name='fig')],
    )
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root / file


def coco_parts(root):
    coco(root, False, 'annotations/val.json', 'val')
    return coco(root, False, 'annotations/train.json', 'train')


def class_folders(root):
    draw_images(root / 'cat')
    draw_images(root / 'dog')
    return root


def write(data, out, *options):
    new.main([str(data), '--out', str(out), *options])
    cfg = read_config(str(out))
    check_data(cfg, 'train', 'val', 'test')
    return cfg


@pytest.mark.parametrize(
    ('make', 'classes', 'counts'),
    [
        (label_maps, ['sky', 'sea', 'land'], (3, 1)),
        (two_parts, [f'class {index}' for index in range(5)], (4, 4)),
        (voc, new.VOC_CLASSES, (2, 1)),
        (voc_boxes, ['nut'], (3, 1)),
        (coco, ['fig'], (3, 1)),
        (coco_parts, ['fig'], (4, 4)),
        (class_folders, ['cat', 'dog'], (7, 1)),
    ],
)
def test_data_are_understood(tmp_path, capsys, make, classes, counts):
    out = tmp_path / 'my.py'
    cfg = write(make(tmp_path / 'data'), out)
    wrote, *_, train, look = capsys.readouterr().out.splitlines()
    assert f'{counts[0]} images to train on, {counts[1]} to validate on' in wrote
    assert train.endswith(f'tools/train.py {out}')
    assert look.endswith('report work_dirs/my')
    assert list(cfg.classes) == classes
    files = [cfg[f'{part}_dataloader'].dataset.ann_file for part in ('train', 'val')]
    assert len(set(files)) == 2 or files == ['', '']


def test_index_without_a_name_is_void_everywhere(tmp_path):
    cfg = write(label_maps(tmp_path / 'data'), tmp_path / 'my.py')
    model = cfg.model
    assert cfg.train_dataloader.dataset.ignore_index == 3
    assert cfg.val_evaluator.ignore_index == 3
    assert model.data_preprocessor.seg_pad_val == 3
    assert model.decode_head.ignore_index == model.auxiliary_head.ignore_index == 3
    (crop,) = (t for t in cfg.train_pipeline if t['type'] == 'RandomCrop')
    assert crop.ignore_index == 3


def test_few_of_the_named_classes_may_occur(tmp_path):
    data = voc(tmp_path / 'data')
    draw_labels(data / 'SegmentationClass', 4)
    cfg = write(data, tmp_path / 'my.py')
    assert len(cfg.classes) == cfg.model.decode_head.get('num_classes') == 21


def test_masks_decide_on_the_detector(tmp_path):
    assert 'mask_head' in write(coco(tmp_path / 'a'), tmp_path / 'a.py').model.roi_head
    cfg = write(coco_parts(tmp_path / 'b'), tmp_path / 'b.py')
    assert 'mask_head' not in cfg.model.roi_head
    assert cfg.val_evaluator.ann_file == str(tmp_path / 'b/annotations/val.json')
    assert cfg.val_dataloader.dataset.data_prefix.img == 'val'


def test_pretrained_backbones(tmp_path):
    data = coco(tmp_path / 'data')
    for method, frozen in (('ea', 1), ('lesa', -1)):
        out = tmp_path / f'{method}.py'
        backbone = write(data, out, '--method', method, '--pretrained').model.backbone
        assert backbone.init_cfg.checkpoint == new.WEIGHTS
        # New norms have no statistics to keep.
        assert (backbone.frozen_stages, backbone.norm_eval) == (frozen, frozen == 1)


def test_pretrained_segmentors(tmp_path):
    data = label_maps(tmp_path / 'data')
    for method, kind, weights in (
        ('ea', 'ResNetV1c', new.WEIGHTS_V1C),
        ('gsa', 'GSAResNet', new.WEIGHTS),
    ):
        out = tmp_path / f'{method}.py'
        model = write(data, out, '--method', method, '--pretrained').model
        assert (model.backbone.type, model.pretrained) == (kind, weights)


@pytest.mark.parametrize(
    ('spoil', 'text'),
    [
        (lambda root: draw(root / 'masks/0_mask.png', 200), 'class indices from 0'),
        (lambda root: draw(root / 'images/1.png', 9, (3,)), 'all images must end in'),
        (lambda root: draw(root / 'masks/0_mask.png', 9, (3,)), 'single-channel PNG'),
        (lambda root: shutil.rmtree(root / 'masks'), 'neither images with label maps'),
    ],
)
def test_mistakes_are_one_line(tmp_path, spoil, text):
    data = label_maps(tmp_path / 'data')
    spoil(data)
    with pytest.raises(LaunchError, match=text):
        write(data, tmp_path / 'my.py')
    assert not (tmp_path / 'my.py').exists()


def test_nothing_is_overwritten(tmp_path):
    data, out = class_folders(tmp_path / 'data'), tmp_path / 'my.py'
    out.write_text('mine')
    with pytest.raises(LaunchError, match='--force'):
        write(data, out)
    assert out.read_text() == 'mine'
    write(data, out, '--force')


def lists(cfg):
    return [
        cfg[f'{part}_dataloader'].dataset.ann_file.rpartition('/')[2]
        for part in ('train', 'val')
    ]


def test_data_are_not_overwritten_by_force(tmp_path):
    file = coco(tmp_path / 'data', file='my_train.json')
    before = file.read_text()
    with pytest.raises(LaunchError, match='another name'):
        write(file, tmp_path / 'data/my.py', '--force')
    assert file.read_text() == before


def test_lists_are_not_overwritten(tmp_path):
    data, mine = class_folders(tmp_path / 'data'), tmp_path / 'my_val.txt'
    mine.write_text('mine')
    with pytest.raises(LaunchError, match=r'my_val\.txt is there already: --force'):
        write(data, tmp_path / 'my.py')
    assert mine.read_text() == 'mine'
    assert not (tmp_path / 'my.py').exists()


def test_nothing_stays_of_a_config_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(new, 'CLASSIFICATION', 'broken = unknown\n')
    with pytest.raises(LaunchError, match='unknown'):
        write(class_folders(tmp_path / 'data'), tmp_path / 'my.py')
    assert [path.name for path in tmp_path.iterdir()] == ['data']


@pytest.mark.parametrize(
    ('path', 'part'),
    [
        ('train2017/0.jpg', 'train'),
        ('images_train', 'train'),
        ('valannot', 'val'),
        ('a/Validation/b', 'val'),
        ('testing', 'test'),
        ('latest/contest', ''),
        ('interval', ''),
        ('trains', ''),
        ('value', ''),
    ],
)
def test_parts_are_words(tmp_path, path, part):
    assert new.part_of(tmp_path / path, tmp_path) == part


@pytest.mark.parametrize('name', ['test', 'val'])
def test_a_lone_part_is_split(tmp_path, name):
    draw_images(tmp_path / f'data/{name}/images')
    draw_labels(tmp_path / f'data/{name}/labels', 3)
    cfg = write(tmp_path / 'data', tmp_path / 'my.py')
    assert lists(cfg) == ['my_train.txt', 'my_val.txt']


def test_parts_may_differ_in_their_suffix(tmp_path):
    data = two_parts(tmp_path / 'data')
    for path in (data / 'val').iterdir():
        path.rename(path.with_suffix('.jpeg'))
    cfg = write(data, tmp_path / 'my.py')
    assert cfg.train_dataloader.dataset.img_suffix == '.jpg'
    assert cfg.val_dataloader.dataset.img_suffix == '.jpeg'


def test_stray_images_are_no_class(tmp_path):
    data = class_folders(tmp_path / 'classes')
    draw_images(data)
    assert list(write(data, tmp_path / 'my.py').classes) == ['cat', 'dog']


@pytest.mark.parametrize(
    ('file', 'text', 'last'),
    [
        ('readme.txt', '', 'class 3'),
        ('class_names.txt', 'a\nb\nc\nd\n', 'd'),
        ('labelmap.txt', '# label:color\na:0,0,0::\nb:1,1,1::\nc:::\nd:::\n', 'd'),
    ],
)
def test_names_of_a_folder_like_pascals(tmp_path, file, text, last):
    draw_images(tmp_path / 'data/JPEGImages')
    draw_labels(tmp_path / 'data/SegmentationClass', 4)
    (tmp_path / f'data/{file}').write_text(text)
    classes = write(tmp_path / 'data', tmp_path / 'my.py').classes
    assert len(classes) == 4
    assert classes[-1] == last


def test_lists_of_boxes_are_taken(tmp_path):
    data = voc_boxes(tmp_path / 'data')
    (data / 'ImageSets/Main').mkdir(parents=True)
    (data / 'ImageSets/Main/train.txt').write_text('3\n')
    (data / 'ImageSets/Main/val.txt').write_text('0\n1\n')
    write(data, tmp_path / 'my.py')
    for part, stems in (('train', '3'), ('val', '01')):
        content = json.loads((tmp_path / f'my_{part}.json').read_text())
        assert [i['file_name'] for i in content['images']] == [
            f'{s}.jpg' for s in stems
        ]
        assert len(content['annotations']) == len(stems)


@pytest.mark.parametrize(
    ('make', 'file', 'old', 'new_text', 'match'),
    [
        (voc_boxes, 'Annotations/1.xml', 'bndbox', 'polygon', r'no bndbox/xmin'),
        (voc_boxes, 'Annotations/1.xml', '</annotation>', '', 'no element found'),
        (
            coco,
            'annotations/all.json',
            '"annotations"',
            '"notes"',
            'has no annotations',
        ),
        (coco, 'annotations/all.json', '"bbox"', '"box"', 'annotations has no bbox'),
        (coco, 'annotations/all.json', '}]}', '', 'delimiter'),
        (coco, 'annotations/all.json', '"0.jpg"', '"/0.jpg"', 'relative to a folder'),
        (class_folders, 'cat/0.jpg', None, None, 'cannot identify image'),
        (label_maps, 'masks/0_mask.png', None, None, 'cannot identify image'),
    ],
)
def test_broken_files_are_named(tmp_path, make, file, old, new_text, match):
    data, path = make(tmp_path / 'data'), tmp_path / 'data' / file
    path.write_text(path.read_text().replace(old, new_text) if old else '')
    with pytest.raises(LaunchError, match=f'{path.name}.*{match}'):
        write(data, tmp_path / 'my.py')


def test_brackets_in_names_are_no_pattern(tmp_path):
    file = coco(tmp_path / 'data')
    (tmp_path / 'data/images/0.jpg').rename(tmp_path / 'data/images/a[0].jpg')
    file.write_text(file.read_text().replace('"0.jpg"', '"a[0].jpg"'))
    write(file, tmp_path / 'my.py')


def test_mim_trains_where_there_is_no_checkout(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(voc_boxes(tmp_path / 'data'))
    write('.', 'my.py')
    assert 'mim train mmdet my.py' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ('make', 'method'),
    [
        (label_maps, 'ea'),
        (voc, 'lesa'),
        (two_parts, 'gsa'),
        (coco, 'ea'),
        (coco_parts, 'gsa'),
        (voc_boxes, 'lesa'),
        (class_folders, 'ea'),
        (class_folders, 'lesa'),
    ],
)
def test_it_trains(tmp_path, make, method):
    if make == class_folders:
        pytest.importorskip('mmpretrain')
    cfg = write(make(tmp_path / 'data'), tmp_path / 'my.py', '--method', method)
    cfg.work_dir = str(tmp_path / 'work')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.param_scheduler = cfg.default_hooks.checkpoint = cfg.default_hooks.logger = None
    cfg.log_level = 'WARNING'
    runner = Runner.from_cfg(cfg)
    before = [p.detach().clone() for p in runner.model.parameters()]
    runner.train()
    after = list(runner.model.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not p.equal(q) for p, q in zip(before, after, strict=True))
