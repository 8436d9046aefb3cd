"""Whole models over several processes: as one learns them, by DDP as mmengine sets it.

The layers are in tests/modules/test_processes.py, more cases among them.
"""

import logging
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import (
    BaseModel,
    MMDistributedDataParallel,
    revert_sync_batchnorm,
)
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from processes import run_script, save_all

import attn_plugins  # noqa: F401 (registers)

pytestmark = pytest.mark.slow  # imports of the frameworks in two processes

REPO = Path(__file__).resolve().parents[3]
SYNC_BN = dict(type='SyncBN', requires_grad=True)
SMALL = dict(depth=18, stem_channels=8, base_channels=8)
SIZE = (32, 40)
BATCH, STEPS, CLASSES = 4, 2, 5
TOLERANCE = dict(atol=1e-5, rtol=1e-5)
LESA = dict(type='LESAResNet', rel_pos_input_size=SIZE, **SMALL)
GSA = dict(type='GSAResNet', rel_pos_input_size=SIZE, **SMALL)
BACKBONES = {
    'lesa': dict(LESA, attn=dict(num_heads=2)),
    'gsa': dict(GSA, attn=dict(num_heads=2)),
}
VARIANTS = {
    **{
        f'lesa-{variant}': dict(LESA, attn=dict(num_heads=2, variant=variant))
        for variant in ('dynamic', 'static', 'attention', 'augmentation')
    },
    'lesa-flat': dict(
        LESA, attn=dict(num_heads=2, position='flat'), rel_pos_input_size=40
    ),
    'lesa-recomputed': dict(LESA, attn=dict(num_heads=2, with_cp=True)),
    'gsa-axial': dict(GSA, attn=dict(num_heads=2, axial_content=True)),
    'gsa-content': dict(GSA, attn=dict(num_heads=2, columns=False, rows=False)),
}
DETECTORS = (
    'faster-rcnn-ea_r50_coco',
    'mask-rcnn-ea_r50_coco',
    'cascade-mask-rcnn-ea_r50_coco',
    'retinanet-ea_r50_coco',
)


class PlainLoss(BaseModel):
    """A backbone, and how far its maps are from targets that no symmetry shares."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor, data_samples: list, mode: str) -> dict:
        maps = self.backbone(inputs)
        targets = [torch.linspace(-1, 1, x[0].numel()).view_as(x[0]) for x in maps]
        errors = [(x - t).square().mean() for x, t in zip(maps, targets, strict=True)]
        return dict(loss=sum(errors))


def build(name: str) -> BaseModel:
    """The model of a name, the same in every process."""
    torch.manual_seed(0)
    if name in DETECTORS:
        init_default_scope('mmdet')
        model = MMDET_MODELS.build(shrunk(f'configs/{name}.py'))
    else:
        init_default_scope('mmseg')
        backbone = {**BACKBONES, **VARIANTS}.get(name)
        if backbone is None:
            return MODELS.build(eanet())
        model = PlainLoss(MODELS.build(dict(backbone, norm_cfg=SYNC_BN)))
    model.init_weights()
    return model


def eanet() -> dict:
    """The demo's model, smaller, without dropout."""
    model = Config.fromfile(REPO / 'configs/eanet_r18_demo.py').model
    model.backbone.update(SMALL, norm_cfg=SYNC_BN)
    head = dict(num_classes=CLASSES, norm_cfg=SYNC_BN, dropout_ratio=0, channels=16)
    model.decode_head.update(head, in_channels=64, attn_channels=32)
    model.auxiliary_head.update(head, in_channels=32)
    model.data_preprocessor.size = SIZE
    return model


def shrunk(path: str) -> dict:
    """A detector of a sixteenth of the width."""

    def shrink(value, key: str = ''):
        if isinstance(value, dict):
            return {k: shrink(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [shrink(item, key) for item in value]
        return value // 16 if key.endswith('channels') and value >= 64 else value

    model = shrink(Config.fromfile(REPO / path).model.to_dict())
    model['backbone'].update(stem_channels=4, base_channels=4, init_cfg=None)
    return ConfigDict(model)


def batch(name: str, step: int, rank: int, world: int) -> dict:
    """This process's images of a step."""
    if name in DETECTORS:
        size = (3, 64, 96)
        return demo_mm_inputs(
            1, [size], num_classes=80, with_mask=True, use_box_type=False
        )
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 3, *SIZE, generator=generator) * 50 + 120
    inputs *= torch.linspace(0.5, 1, BATCH).view(-1, 1, 1, 1)  # unlike statistics
    labels = torch.randint(CLASSES, (BATCH, 1, *SIZE), generator=generator)
    samples = [SegDataSample(metainfo=dict(img_shape=SIZE)) for _ in labels]
    for sample, label in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=label)
    own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    if name != 'eanet':
        return dict(inputs=inputs[own] / 50 - 2, data_samples=[])
    return dict(inputs=list(inputs[own]), data_samples=samples[own])


def learn(name: str) -> dict:
    """Takes a few steps; returns losses and weights."""
    model, rank, world = build(name).train(), 0, 1
    if dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
        # mmengine's settings, but for the devices.
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    else:
        model = revert_sync_batchnorm(model)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.01, momentum=0.9))
    losses = []
    for step in range(STEPS):
        logs = model.train_step(batch(name, step, rank, world), optimizer)
        losses.append(logs['loss'].detach())
    weights = getattr(model, 'module', model).state_dict()
    return dict(losses=torch.stack(losses), weights=weights)


def learn_all() -> dict:
    names = ('eanet', *BACKBONES, *VARIANTS, *DETECTORS)
    return {name: learn(name) for name in names}


@pytest.fixture(scope='module')
def learned(tmp_path_factory) -> dict[int, list[dict]]:
    """Results of each process, by the number of processes."""
    return run_script(__file__, tmp_path_factory.mktemp('processes'))


@pytest.mark.parametrize('name', ['eanet', *BACKBONES])
def test_equal_one_process(learned, name):
    expected = learn(name)
    results = [result[name] for result in learned[2]]
    losses = torch.stack([result['losses'] for result in results])
    assert_close(losses.mean(0), expected['losses'], **TOLERANCE)
    for result in results:
        assert_close(result['weights'], expected['weights'], **TOLERANCE)


@pytest.mark.parametrize('name', ['eanet', *BACKBONES, *VARIANTS, *DETECTORS])
def test_no_parameter_is_unused(learned, name):
    """With its default settings DDP refuses the step after one that left any out."""
    for result in learned[2]:
        assert len(result[name]['losses']) == STEPS > 1
        assert result[name]['losses'].isfinite().all()


if __name__ == '__main__':
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)
    save_all(learn_all, (2,))
