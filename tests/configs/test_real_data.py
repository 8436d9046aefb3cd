"""The configs' own data sets and pipelines read real photographs and label maps."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.mark.parametrize(
    ('name', 'folder', 'sizes', 'void'),
    [
        ('eanet_r18_camvid', 'camvid', (60, 20, 20), 11),
        ('eanet_r101_ade20k', 'ade20k_sample', (18, 9, 9), 255),
    ],
)
def test_every_split_is_read(real_data, name, folder, sizes, void):
    config = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope(config.default_scope)
    for split, size in zip(('train', 'val', 'test'), sizes, strict=True):
        dataset = config[f'{split}_dataloader'].dataset
        dataset.data_root = str(real_data / folder)
        dataset = DATASETS.build(dataset)
        assert len(dataset) == size
        item = dataset[0]
        label = item['data_samples'].gt_sem_seg.data
        known = set(label.unique().tolist()) - {void}
        assert known
        assert max(known) < len(dataset.metainfo['classes'])
        if split == 'train':
            assert item['inputs'].shape[1:] == label.shape[1:]


def test_voc_layout_is_read(real_data):
    """The sample has no augmented set: its plain part and the validation part."""
    config = Config.fromfile(CONFIGS / 'eanet_r101_voc.py')
    init_default_scope(config.default_scope)
    for dataset in (
        config.train_dataloader.dataset.datasets[0],
        config.val_dataloader.dataset,
    ):
        dataset.data_root = str(real_data / 'voc_boxes/VOCdevkit/VOC2012')
        item = DATASETS.build(dataset)[0]
        known = set(item['data_samples'].gt_sem_seg.data.unique().tolist()) - {255}
        assert known <= set(range(21))
        assert len(known) > 1


@pytest.mark.parametrize('keep_ratio', [False, True], ids=['square', 'keep-ratio'])
def test_htc_trains_at_the_papers_scales(real_data, keep_ratio):
    """Half of the time 512 to 1024, else 1024 to 2048, both sides alike."""
    datasets = pytest.importorskip('mmdet.registry').DATASETS
    name = 'htc_lesa-wrn50-dcn_coco_20e' + ('_keep-ratio' if keep_ratio else '')
    config = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope('mmdet')
    choice = next(t for t in config.train_pipeline if t['type'] == 'RandomChoice')
    ranges = [[(t['scale'], t['ratio_range']) for t in ts] for ts in choice.transforms]
    assert ranges == [[((1024, 1024), (0.5, 1.0))], [((1024, 1024), (1.0, 2.0))]]
    pipeline = config.train_dataloader.dataset.pipeline
    assert pipeline == config.train_pipeline
    pipeline[1].with_seg = False  # the sample has no label maps
    dataset = config.val_dataloader.dataset
    dataset.update(
        data_root=str(real_data / 'coco_masks_nuts'),
        metainfo=dict(classes=('date', 'fig', 'hazelnut')),
        pipeline=pipeline,
    )
    dataset = datasets.build(dataset)
    for _ in range(3):
        height, width = dataset[0]['inputs'].shape[1:]
        assert 512 <= max(height, width) <= 2048
        assert height / width == pytest.approx(0.75 if keep_ratio else 1, rel=0.01)
