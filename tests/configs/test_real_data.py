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
