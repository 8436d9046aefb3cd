"""What the tools check and change before anything starts."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.registry import init_default_scope

from attn_plugins.mm.apis.evaluation import (
    augment_test_time,
    format_results,
    paint_predictions,
    without_labels,
)
from attn_plugins.mm.apis.launch import (
    LaunchError,
    add_common_arguments,
    check_checkpoint,
    check_data,
    load_config,
    one_line_errors,
)
from attn_plugins.mm.engine.errors import UserError, WriteError


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def load(repo, name: str, *arguments: str) -> Config:
    return load_config(parse(repo / f'configs/{name}.py', *arguments))


def test_data_root_reaches_every_data_set(repo):
    cfg = load(repo, 'eanet_r101_voc', '--data-root', 'elsewhere')
    datasets = [
        *cfg.train_dataloader.dataset.datasets,
        cfg.val_dataloader.dataset,
        cfg.test_dataloader.dataset,
    ]
    assert [dataset.data_root for dataset in datasets] == ['elsewhere'] * 4


def test_data_root_reaches_the_metrics_that_read_annotations(repo, tmp_path):
    cfg = load(repo, 'mask-rcnn-ea_r50_coco', '--data-root', tmp_path)
    expected = f'{tmp_path}/annotations/instances_val2017.json'
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == expected
    (tmp_path / 'val2017').mkdir()
    with pytest.raises(LaunchError, match=f'MISSING  {expected}\n'):
        check_data(cfg, 'val')
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/instances_val2017.json').touch()
    check_data(cfg, 'val')
    cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
    with pytest.raises(LaunchError, match=r'MISSING  .*other\.json'):
        check_data(cfg, 'val')


def test_missing_checkpoint(tmp_path):
    with pytest.raises(LaunchError, match=r'there is no checkpoint nope\.pth'):
        check_checkpoint('nope.pth')
    (tmp_path / 'c.pth').touch()
    check_checkpoint(str(tmp_path / 'c.pth'))
    check_checkpoint('https://example.invalid/c.pth')


def test_work_dir_from_argument_config_or_name(repo):
    assert load(repo, 'eanet_r101_voc').work_dir == 'work_dirs/eanet_r101_voc'
    assert load(repo, 'eanet_r101_voc', '--work-dir', 'w').work_dir == 'w'
    options = ('--cfg-options', 'work_dir=from_config', 'model.pretrained=None')
    cfg = load(repo, 'eanet_r101_voc', *options)
    assert cfg.work_dir == 'from_config'
    assert cfg.model.pretrained is None


def test_missing_config():
    with pytest.raises(LaunchError, match=r'there is no config file nothing\.py'):
        load_config(parse('nothing.py'))


def test_missing_data_shows_the_layout_and_the_way_out(repo, tmp_path):
    cfg = load(repo, 'eanet_r101_voc', '--data-root', tmp_path)
    (tmp_path / 'JPEGImages').mkdir()
    with pytest.raises(LaunchError) as error:
        check_data(cfg, 'train', 'val')
    message = str(error.value)
    assert f'found    {tmp_path}/JPEGImages\n' in message
    for missing in (
        'SegmentationClass',
        'SegmentationClassAug',
        'ImageSets/Segmentation/train.txt',
        'ImageSets/Segmentation/aug.txt',
        'ImageSets/Segmentation/val.txt',
    ):
        assert f'MISSING  {tmp_path}/{missing}\n' in message
    assert message.count('JPEGImages') == 1
    assert '--data-root DIR' in message


def test_complete_data_passes(repo, tmp_path):
    cfg = load(repo, 'eanet_r101_ade20k', '--data-root', tmp_path)
    for part in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (tmp_path / part / split).mkdir(parents=True)
    check_data(cfg, 'train', 'val', 'test')


def test_labels_are_not_needed_to_format_results(repo, tmp_path):
    cfg = load(repo, 'eanet_r101_ade20k', '--data-root', tmp_path)
    (tmp_path / 'images/validation').mkdir(parents=True)
    with pytest.raises(LaunchError, match='annotations/validation'):
        check_data(cfg, 'test')
    augment_test_time(cfg)
    format_results(cfg, 'd', only=True)
    check_data(cfg, 'test')


def test_detection_data_sets_are_understood(tmp_path):
    dataset = dict(
        type='RepeatDataset',
        times=3,
        dataset=dict(
            type='CocoDataset',
            data_root=str(tmp_path),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
        ),
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(LaunchError) as error:
        check_data(cfg, 'train')
    assert f'MISSING  {tmp_path}/annotations/instances_train2017.json' in str(
        error.value
    )


def test_a_single_folder_as_prefix_is_understood(tmp_path):
    """As mmpretrain's CustomDataset and CIFAR10 have it."""
    dataset = dict(data_root=str(tmp_path), data_prefix='train')
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(LaunchError, match=f'MISSING  {tmp_path}/train'):
        check_data(cfg, 'train')
    (tmp_path / 'train').mkdir()
    check_data(cfg, 'train')


def test_remote_data_is_not_looked_for():
    dataset = dict(data_root='s3://bucket/', data_prefix=dict(img_path='images'))
    check_data(Config(dict(test_dataloader=dict(dataset=dataset))), 'test')


@pytest.mark.parametrize('error', [UserError, FileNotFoundError, WriteError])
def test_mistakes_end_with_one_line(error):
    with pytest.raises(SystemExit, match=r'error: why$'), one_line_errors():
        raise error('why')


def test_only_the_first_process_speaks(monkeypatch):
    for rank, code in (('0', 'error: why'), ('1', '1')):
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(SystemExit) as stop, one_line_errors():
            raise LaunchError('why')
        assert str(stop.value).endswith(code)


def test_faults_keep_their_stack_trace():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError('a fault of ours')


def test_labels_are_dropped_from_nested_pipelines():
    drop, keep = dict(type='mmseg.LoadAnnotations'), dict(type='Keep')
    pipeline = [keep, dict(type='TestTimeAug', transforms=[[drop], [keep, drop]])]
    kept = without_labels(pipeline)
    assert kept == [keep, dict(type='TestTimeAug', transforms=[[keep]])]
    assert pipeline[1]['transforms'][0] == [drop]


def test_tta_uses_the_configs_scales_and_flips(repo):
    cfg = load(repo, 'eanet_r101_ade20k')
    augment_test_time(cfg)
    assert cfg.model.type == 'SegTTAModel'
    assert cfg.model.module.decode_head.type == 'EAHead'
    scales, flips, *_ = cfg.test_dataloader.dataset.pipeline[-1].transforms
    assert [s.scale_factor for s in scales] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [f.prob for f in flips] == [0.0, 1.0]


def test_tta_flips_where_the_config_has_no_pipeline_for_it():
    cfg = Config.fromfile(
        __import__('mmdet').__path__[0]
        + '/.mim/configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    )
    augment_test_time(cfg)
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.module.type == 'FasterRCNN'
    tta = cfg.test_dataloader.dataset.pipeline[-1]
    assert tta.type == 'TestTimeAug'
    assert 'flip_direction' in tta.transforms[1][0].meta_keys


@pytest.mark.parametrize(
    ('hook', 'expected'),
    [
        ('SegVisualizationHook', dict(draw=True)),
        ('DetVisualizationHook', dict(draw=True, test_out_dir='d')),
        ('VisualizationHook', dict(enable=True, out_dir='d')),
    ],
)
def test_painting(hook, expected):
    cfg = Config(
        dict(default_hooks=dict(visualization=dict(type=hook)), visualizer=dict())
    )
    paint_predictions(cfg, 'd')
    assert cfg.default_hooks.visualization == dict(type=hook, interval=1, **expected)
    assert cfg.visualizer.get('save_dir') == (
        'd' if hook == 'SegVisualizationHook' else None
    )


def test_painting_needs_the_hook():
    with pytest.raises(LaunchError, match=r'needs default_hooks\.visualization'):
        paint_predictions(Config(dict(default_hooks=dict())), 'd')


@pytest.mark.parametrize('only', [True, False])
def test_format_label_maps(repo, only):
    cfg = load(repo, 'eanet_r101_ade20k')
    augment_test_time(cfg)
    format_results(cfg, 'd', only=only)
    assert cfg.test_evaluator.output_dir == 'd'
    assert cfg.test_evaluator.format_only == only
    has_labels = 'LoadAnnotations' in str(cfg.test_dataloader.dataset.pipeline)
    assert has_labels != only


@pytest.mark.parametrize('scope', ['', 'mmseg.'])
def test_cityscapes_server_wants_label_ids(repo, scope):
    cfg = load(repo, 'eanet_r101_cityscapes')
    cfg.test_dataloader.dataset.type = f'{scope}CityscapesDataset'
    format_results(cfg, 'd', only=True)
    assert cfg.test_evaluator == dict(
        type='CityscapesMetric', output_dir='d', format_only=True, keep_results=True
    )


def test_cityscapes_files_hold_label_ids(repo, tmp_path):
    """Train id 0 is road, label id 7; train id 18 is bicycle, label id 33."""
    pytest.importorskip('cityscapesscripts')
    from mmseg.registry import METRICS

    init_default_scope('mmseg')
    cfg = load(repo, 'eanet_r101_cityscapes')
    format_results(cfg, str(tmp_path), only=True)
    metric = METRICS.build(cfg.test_evaluator)
    prediction = dict(
        pred_sem_seg=dict(data=torch.tensor([[[0, 18]]])), img_path='a/town_1.png'
    )
    metric.process({}, [prediction])
    assert np.asarray(Image.open(tmp_path / 'town_1.png')).tolist() == [[7, 33]]


def test_format_coco_results():
    dataset = dict(type='CocoDataset', pipeline=[])
    cfg = Config(
        dict(
            test_evaluator=dict(type='CocoMetric'),
            test_dataloader=dict(dataset=dataset),
        )
    )
    format_results(cfg, 'd', only=True)
    assert cfg.test_evaluator.outfile_prefix == 'd/results'
    assert cfg.test_evaluator.format_only


def test_a_metric_that_writes_no_files_is_named():
    cfg = Config(
        dict(
            test_evaluator=dict(type='VOCMetric'),
            test_dataloader=dict(dataset=dict(type='VOCDataset', pipeline=[])),
        )
    )
    with pytest.raises(LaunchError, match='test_evaluator is VOCMetric; --out FILE'):
        format_results(cfg, 'd', only=True)
