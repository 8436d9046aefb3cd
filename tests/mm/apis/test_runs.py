"""What is read out of a work folder."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.config import Config
from torch import nn

from attn_plugins.cli.configs import stock_bases
from attn_plugins.mm.apis.launch import LaunchError
from attn_plugins.mm.apis.runs import (
    class_tables,
    config_diff,
    count_macs,
    parameter_table,
    read_stock,
    run_checkpoint,
    run_config,
)

LOG = """\
2026/01/01 00:00:00 - mmengine - INFO - per class results:
+-------+-------+
| Class |  IoU  |
+-------+-------+
|  sky  |  {}  |
+-------+-------+
2026/01/01 00:00:00 - mmengine - INFO - Iter(val) [2/2]    mIoU: 50.0000
+--------+------+
| metric | what |
+--------+------+
| other  |  1   |
+--------+------+
"""


def test_stock_base_through_our_own_configs(repo):
    expected = ['mmseg::fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py']
    assert stock_bases(repo / 'configs/eanet_r101_ade20k.py') == expected
    assert stock_bases(repo / 'configs/eanet_r18_demo.py') == expected


def test_a_config_without_base(tmp_path):
    (tmp_path / 'a.py').write_text('model = dict()\n')
    (tmp_path / 'b.py').write_text("_base_ = ['./a.py', 'mmdet::x.py']\n")
    assert stock_bases(tmp_path / 'a.py') == []
    assert stock_bases(tmp_path / 'b.py') == ['mmdet::x.py']


def test_diff_of_a_dumped_config_is_that_of_the_file(repo, tmp_path):
    """Names for the config's own use, scopes and the order of keys do not count."""
    path = repo / 'configs/eanet_r50_ade20k.py'
    base = read_stock(stock_bases(path))
    cfg = Config.fromfile(path)
    rows = config_diff(base, cfg)
    keys = [key for key, _, _ in rows]
    assert 'model.decode_head.type' in keys
    assert ('model.backbone.depth', '101', '50') in rows
    assert not any('_scope_' in key for key in keys)
    cfg.work_dir = str(tmp_path)
    cfg.dump(tmp_path / 'dumped.py')
    assert config_diff(base, Config.fromfile(tmp_path / 'dumped.py')) == rows
    assert config_diff(base, base) == []


def test_a_setting_that_is_new_or_gone():
    base = Config(dict(model=dict(a=1, b=[dict(type='x', c=2)]), lr=5))
    run = Config(dict(model=dict(b=[dict(c=2, type='x')], d=dict()), lr=6))
    assert config_diff(base, run) == [
        ('model.a', '1', '(not there)'),
        ('model.d', '(not there)', '{}'),
    ]


def test_a_stock_config_that_does_not_exist():
    with pytest.raises(LaunchError, match='no stock config mmseg::fcn/nope'):
        read_stock(['mmseg::fcn/nope.py'])


def test_config_and_checkpoint_of_a_folder(tmp_path):
    with pytest.raises(LaunchError, match='no work folder'):
        run_config(tmp_path / 'nope')
    with pytest.raises(LaunchError, match='holds no config'):
        run_config(tmp_path)
    assert run_checkpoint(tmp_path) is None
    for time, name in enumerate(('old.py', 'new.py', 'iter_9.pth', 'best.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    assert run_config(tmp_path).name == 'new.py'
    assert run_checkpoint(tmp_path).name == 'best.pth'
    # The folder was moved: the path in there is of the old place.
    (tmp_path / 'last_checkpoint').write_text('/old/place/iter_9.pth')
    assert run_checkpoint(tmp_path) == tmp_path / 'iter_9.pth'


def test_tables_by_class_of_the_last_evaluation(tmp_path):
    assert class_tables(tmp_path) == []
    for time, logs in (('1', (10, 20)), ('2', (30, 40)), ('3', ())):
        (tmp_path / time).mkdir()
        text = ''.join(LOG.format(value) for value in logs)
        (tmp_path / time / f'{time}.log').write_text(text)
    assert class_tables(tmp_path) == [('', [['Class', 'IoU'], ['sky', '40']])]


def test_boxes_and_masks_have_a_table_each(tmp_path):
    table = '+--+\n| category | mAP |\n+--+\n| cat | {} |\n+--+\n'
    text = ''
    for epoch, results in enumerate(((0.1, 0.2), (0.3, 0.4)), 1):
        text += f'INFO - Epoch(val) [{epoch}][3/5]    eta: 0:00:01\n'
        for kind, value in zip(('bbox', 'segm'), results, strict=True):
            text += f'INFO - Evaluating {kind}...\n{table.format(value)}'
            text += 'INFO - copypaste\n'
        text += f'INFO - Epoch(val) [{epoch}][5/5]    coco/bbox_mAP: 0.1\n'
    (tmp_path / '1').mkdir()
    (tmp_path / '1/1.log').write_text(text + 'INFO - Epoch(val) [3][3/5]\n')
    assert class_tables(tmp_path) == [
        ('bbox', [['category', 'mAP'], ['cat', '0.3']]),
        ('segm', [['category', 'mAP'], ['cat', '0.4']]),
    ]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, bias=False)
        self.head = nn.Linear(4, 2)
        self.head.weight.requires_grad_(False)
        self.act = nn.ReLU()


def test_parameters_by_part():
    class Predictor:
        model = Net()

        def predict(self, image):
            x = self.model.backbone(torch.from_numpy(image))
            q = torch.rand(1, 1, 10, 4)
            nn.functional.scaled_dot_product_attention(q, q, q)
            return self.model.head(x.mean((1, 2)))

    rows = parameter_table(Predictor())
    assert [name for name, _, _ in rows] == ['backbone', 'head', 'all']
    assert rows[0] == ('backbone', '0.000', '0.000')
    image = np.zeros((3, 5, 6), np.float32)
    # The fused attention's two products are seen as well.
    assert count_macs(Predictor(), image) == 3 * 4 * 9 * 3 * 4 + 4 * 2 + 2 * 10 * 10 * 4
