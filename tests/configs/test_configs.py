"""Every shipped config loads, builds, and differs from its base as it says."""

import copy
import functools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
from meta import on_meta
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.datasets import CIFAR100
from mmpretrain.registry import DATASETS as CLASSIFICATION_DATASETS
from mmpretrain.structures import DataSample
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))
CLASSIFICATION = [name for name in NAMES if '_in1k' in name or '_cifar100' in name]
LESA_IN1K = [
    name for name in CLASSIFICATION if name.startswith(('lesa', 'sa', 'static', 'aa'))
]
GSA_IN1K = [
    name for name in CLASSIFICATION if name.startswith('gsa') and 'in1k' in name
]
CIFAR100_ROWS = [name for name in CLASSIFICATION if '_cifar100' in name]
SEGMENTATION = [
    name for name in NAMES if '_coco' not in name and name not in CLASSIFICATION
]

# Networks of a stock config, or of another one of ours but for its depth.
SAME_NETWORK = {
    'eamlp7_in1k_384',
    't2t-vit7-mea_in1k_384',
    'eamlp-bn14_in1k',
    'eamlp-bn19_in1k',
    't2t-vit14_in1k',
    't2t-vit19_in1k',
    't2t-vit14-ea_in1k',
    't2t-vit14-mea_in1k',
    't2t-vit19-mea_in1k',
    'mask-rcnn_r50_coco',
    'mask-rcnn_r50-dcn_coco_20e',
    'mask-rcnn_lesa-r50-dcn_coco_20e_keep-ratio',
    'htc_wrn50-dcn_coco_20e',
    'htc_wrn50-dcn_coco_20e_1280',
    'htc_lesa-wrn50-dcn_coco_20e_1280',
    'htc_lesa-wrn50-dcn_coco_20e_keep-ratio',
}


@functools.cache
def parse(path: Path) -> Config:
    return Config.fromfile(path)


def load(name: str) -> Config:
    return copy.deepcopy(parse(CONFIGS / f'{name}.py'))


def base_of(text: str) -> Config:
    """The config that one with this text is a short diff over."""
    base = re.search(r"^_base_ = '(.+)'$", text, re.MULTILINE)[1]
    if '::' not in base:
        return parse(CONFIGS / base)
    package, path = base.split('::')
    return parse(Path(__import__(package).__file__).parent / '.mim/configs' / path)


def written(text: str, base: Config) -> dict:
    """What the text of a config says itself, before it is merged into its base."""
    text = re.sub(r'^_base_ = .*$', '', text, flags=re.MULTILINE)
    text = re.sub(r'{{(_base_[.\w]*)}}', r'\1', text)
    names = dict(_base_=base)
    exec(text, names)
    return {k: v for k, v in names.items() if k[0] != '_'}


# A ResNet or T2T-ViT of ours takes the arguments of the stock one, a hook those of its.
KEEP_SIBLINGS = {'model.backbone', 'default_hooks.checkpoint'}


def faults(own: dict, base: dict, path: str = '') -> list[str]:
    """What a dict of a config does to that of its base, and cannot mean to do."""
    found = []
    is_replaced = 'type' in own and 'type' in base and own['type'] != base['type']
    if is_replaced and path not in KEEP_SIBLINGS:
        # Merging keeps them: where they fit the new type, nothing fails.
        left = set(base) - set(own) - {'_scope_'}
        found += [f'{path}.{key} is left of the replaced type' for key in sorted(left)]
    for key, value in own.items():
        name = f'{path}.{key}'.lstrip('.')
        if isinstance(value, dict):
            if isinstance(base.get(key), dict) and not value.get('_delete_'):
                found += faults(value, base[key], name)
        elif key not in base:
            if path and 'type' not in base and not path.endswith('.attn'):
                found.append(f'{name} is new where no class takes it')
        elif value == base[key] and not is_replaced:
            found.append(f'{name} is the same in the base')
    return found


@pytest.mark.parametrize('name', NAMES)
def test_leaves_nothing_of_a_replaced_type_and_changes_what_it_says(name):
    text = (CONFIGS / f'{name}.py').read_text()
    base = base_of(text)
    assert not faults(written(text, base), base)


@pytest.mark.parametrize(
    ('old', 'new', 'fault'),
    [
        ('_delete_=True,', '', 'model.decode_head.channels is left of the replaced'),
        ('\nmodel', '\ntrain_dataloader = dict(batch=2)\nmodel', 'batch is new'),
        ('\nmodel', '\ntrain_cfg = dict(max_iters=160000)\nmodel', 'the same in'),
    ],
)
def test_a_fault_is_seen(old, new, fault):
    text = (CONFIGS / 'eanet_r101_ade20k.py').read_text()
    base = base_of(text)
    found = faults(written(text.replace(old, new, 1), base), base)
    assert any(fault in line for line in found), found


@pytest.mark.parametrize('name', NAMES)
def test_is_a_short_commented_diff(name):
    lines = (CONFIGS / f'{name}.py').read_text().splitlines()
    assert lines[0].startswith('# ')
    assert len(lines) <= 60 or name == 'eanet_r18_camvid'  # which restates a data set
    assert any(line.startswith('_base_ = ') for line in lines)


def segmentation_batch() -> list[SegDataSample]:
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(33, 47)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 33, 47)))
        samples.append(sample)
    return samples


def detection_batch(size: tuple[int, int]) -> list[DetDataSample]:
    samples = []
    for _ in range(2):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                ori_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[2.0, 3.0, 30.0, 25.0]]),
            labels=torch.tensor([1]),
            masks=BitmapMasks(np.ones((1, *size), dtype=np.uint8), *size),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4))
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 183, (1, *size)))
        samples.append(sample)
    return samples


def image_size(name: str) -> tuple[int, int]:
    """An odd one, where the stock parts of the network take it.

    HTC's semantic branch wants whole cells of 32 pixels, and mmcv's deformable
    convolution maps of 3 x 3, also in stage 4.
    """
    if name.startswith('htc'):
        return (64, 96)
    return (65, 97) if name == 'mask-rcnn_wrn50-dcn_coco_20e' else (33, 47)


def classification_batch() -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in (1, 3)]


WIDTHS = ('channels', 'embed_dims')


def shrunk(model: ConfigDict) -> ConfigDict:
    """The model at a sixteenth of its width, without weights to start from."""

    def shrink(value, key: str = ''):
        if isinstance(value, dict):
            return {k: shrink(v, k) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [shrink(item, key) for item in value]
        return value // 16 if key.endswith(WIDTHS) and value >= 64 else value

    model = ConfigDict(shrink(model.to_dict()))
    backbone, head = model.backbone, model.get('decode_head')
    if backbone.type in ('EAMLP', 'T2T_ViT'):
        backbone.embed_dims = model.head.in_channels
    else:
        width = backbone.get('base_channels', 64) // 16
        backbone.update(stem_channels=4, base_channels=width)
    if backbone.type in ('LESAResNet', 'GSAResNet'):
        backbone.attn = dict(backbone.get('attn') or {}, num_heads=2)
    if head:
        model.pretrained = None
    if head and head.type == 'EAHead':
        head.update(attn_channels=32, channels=16)
    return model


@pytest.mark.parametrize('name', NAMES)
def test_trains_one_step_on_an_odd_image(name):
    config = load(name)
    size = image_size(name)
    init_default_scope(config.default_scope)
    model = revert_sync_batchnorm(MODELS.build(shrunk(config.model))).train()
    if name in SAME_NETWORK:
        return  # it can be built
    if config.default_scope == 'mmseg':
        samples = segmentation_batch()
    elif config.default_scope == 'mmpretrain':
        samples = classification_batch()
    else:
        samples = detection_batch(size)
    losses = model.loss(torch.rand(2, 3, *size), samples)
    parsed, _ = model.parse_losses(losses)
    parsed.backward()
    untouched = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert not untouched


def build_dataset(dataset: dict, root: Path):
    """Builds a data set over an empty one of its layout."""
    for folder in dataset['data_prefix'].values():
        (root / folder).mkdir(parents=True, exist_ok=True)
    if dataset.get('ann_file'):
        (root / dataset['ann_file']).parent.mkdir(parents=True, exist_ok=True)
        (root / dataset['ann_file']).touch()
    return DATASETS.build(dict(dataset, data_root=str(root), lazy_init=True))


@pytest.mark.parametrize('name', SEGMENTATION)
def test_classes_of_model_and_data_agree(name, tmp_path):
    config = load(name)
    init_default_scope(config.default_scope)
    heads = [config.model.decode_head, config.model.get('auxiliary_head')]
    for split in ('train', 'val', 'test'):
        dataset = config[f'{split}_dataloader'].dataset
        for leaf in dataset.get('datasets', [dataset]):
            classes = build_dataset(leaf, tmp_path).metainfo['classes']
            assert {head.num_classes for head in heads if head} == {len(classes)}


@pytest.mark.parametrize('name', ['eanet_r101_voc', 'eanet_r50_voc'])
def test_voc_network_and_schedule_are_the_papers(name):
    config = load(name)
    assert config.model.decode_head.align_corners
    assert config.model.auxiliary_head.align_corners
    assert config.train_cfg.max_iters == config.param_scheduler[0].end == 45000
    assert config.optim_wrapper.optimizer.lr == 0.009
    for dataset in config.train_dataloader.dataset.datasets:
        crop = next(t for t in dataset.pipeline if t['type'] == 'RandomCrop')
        assert tuple(crop['crop_size']) == (513, 513)


def test_table_1_schedule_is_the_papers():
    """Batch 12 on 4 GPUs, 30k iterations, for all ten rows."""
    rows = [name for name in NAMES if 'voc_os' in name]
    for name in (*rows, 'fcn_r50_voc', 'sa_r50_voc', 'sa-softmax_r50_voc'):
        config = load(name)
        assert config.train_dataloader.batch_size == 3
        assert config.train_cfg.max_iters == config.param_scheduler[0].end == 30000
    assert len(rows) + 3 == 10


def count(config: Config) -> int:
    """Parameters of its model."""
    with on_meta():
        model = MODELS.build(config.model)
    return sum(parameter.numel() for parameter in model.parameters())


def test_detectors_have_one_ea_after_stage_4():
    """+8.7 M parameters over the stock detector, none of them elsewhere."""
    init_default_scope('mmdet')
    path = CONFIGS / 'faster-rcnn-ea_r50_coco.py'
    added = count(parse(path)) - count(base_of(path.read_text()))
    assert added == 2 * 2048**2 + 2048 + 2 * 64 * 2048 + 2 * 2048 == 8_656_896


def test_table_3_schedules_are_the_papers():
    """Rows of 12 and of 20 epochs; the header says how the norms train."""
    rows = [name for name in NAMES if '_coco' in name]
    rows = [name for name in rows if '-ea_' not in name and 'gsa' not in name]
    for name in rows:
        config = load(name)
        epochs, steps = (20, [16, 19]) if '_20e' in name else (12, [8, 11])
        assert config.train_cfg.max_epochs == config.param_scheduler[1].end == epochs
        assert config.param_scheduler[1].milestones == steps
        batch = config.auto_scale_lr.base_batch_size
        assert batch == (4 if name.startswith('htc') else 8)
        assert batch == 4 * config.train_dataloader.batch_size  # GPUs
        assert config.optim_wrapper.optimizer.lr == pytest.approx(0.02 * batch / 16)
        backbone = config.model.backbone
        assert backbone.norm_eval
        assert backbone.frozen_stages == 1
        header = (CONFIGS / f'{name}.py').read_text().partition('_base_')[0]
        assert 'norm_eval=True, frozen_stages=1' in header
        assert backbone.get('stage_with_dcn') == (
            (False, True, True, True) if 'dcn' in name else None
        )
    assert len(rows) == 6 + 4 + 4 + 2  # and two with the images' own aspect ratio


def learning_rates(config: Config, steps: int, epoch_length: int) -> list[float]:
    """Learning rate of each iteration, as the config's schedulers set it."""
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], config.optim_wrapper.optimizer.lr
    )
    listed = config.param_scheduler
    schedulers = [
        PARAM_SCHEDULERS.build(
            dict(options),
            default_args=dict(optimizer=optimizer, epoch_length=epoch_length),
        )
        for options in (listed if isinstance(listed, list) else [listed])
    ]
    rates = []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % epoch_length == 0:
                scheduler.step()
    return rates


@pytest.mark.parametrize('name', LESA_IN1K)
def test_lesa_classifiers_schedule_is_the_papers(name):
    """5 epochs of warm-up to 0.05, 90 of cosine, 4 GPUs x 32 images."""
    config = load(name)
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.nesterov) == ('SGD', 0.05, True)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    warm_up, cosine = config.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end) == ('LinearLR', 0, 5)
    assert warm_up.by_epoch
    assert (cosine.type, cosine.begin, cosine.end) == ('CosineAnnealingLR', 5, 95)
    assert cosine.by_epoch
    assert cosine.T_max == 90
    assert config.train_cfg.by_epoch
    assert config.train_cfg.max_epochs == 95
    assert config.train_dataloader.batch_size == 32
    assert config.auto_scale_lr.base_batch_size == 128
    rates = learning_rates(config, steps=95 * 4, epoch_length=4)
    assert rates[0] == pytest.approx(0.01 * 0.05)
    assert max(rates) == pytest.approx(0.05)
    assert rates[5 * 4] == pytest.approx(0.05)
    assert rates[50 * 4] == pytest.approx(0.025)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize('name', GSA_IN1K)
def test_gsa_classifiers_schedule_is_the_papers(name):
    """90 epochs of cosine from 0.1, 8 GPUs x 256 images, label smoothing 0.1."""
    config = load(name)
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('SGD', 0.1)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    cosine = config.param_scheduler
    assert (cosine.type, cosine.begin, cosine.end) == ('CosineAnnealingLR', 0, 90)
    assert cosine.by_epoch
    assert cosine.T_max == 90
    assert config.train_cfg.by_epoch
    assert config.train_cfg.max_epochs == 90
    assert config.train_dataloader.batch_size == 256
    assert config.auto_scale_lr.base_batch_size == 2048
    loss = config.model.head.loss
    assert (loss.type, loss.label_smooth_val) == ('LabelSmoothLoss', 0.1)
    rates = learning_rates(config, steps=90, epoch_length=1)
    assert rates[0] == 0.1
    assert rates[45] == pytest.approx(0.05)


@pytest.mark.parametrize('name', CIFAR100_ROWS)
def test_cifar_schedule_is_the_papers(name):
    """10k iterations from 5e-3, a tenth of it after every 3k, 128 images."""
    config = load(name)
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('SGD', 5e-3)
    assert optimizer.weight_decay == 1e-4
    steps = config.param_scheduler
    assert (steps.type, steps.gamma) == ('MultiStepLR', 0.1)
    assert steps.milestones == [3000, 6000, 9000]
    assert not steps.by_epoch
    assert not config.train_cfg.by_epoch
    assert config.train_cfg.max_iters == 10000
    assert config.train_dataloader.batch_size == 128
    assert config.auto_scale_lr.base_batch_size == 128
    assert config.model.head.num_classes == 100
    assert config.data_preprocessor.num_classes == 100
    rates = learning_rates(config, steps=10000, epoch_length=391)
    for place, rate in ((0, 5e-3), (3000, 5e-4), (6000, 5e-5), (9000, 5e-6)):
        assert rates[place] == rates[place + 999] == pytest.approx(rate)
        assert place == 0 or rates[place - 1] == pytest.approx(10 * rate)


@pytest.mark.parametrize('name', CIFAR100_ROWS)
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_cifar_images_come_out_at_224_pixels(name, split, tmp_path, monkeypatch):
    """From files of CIFAR-100's layout: rows of 3072 bytes, red first."""
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    for file, labels in (('train', [7, 99, 0]), ('test', [42, 1])):
        images = np.zeros((len(labels), 3, 1024), dtype=np.uint8)
        images[:, 0] = 200
        images[:, 2, :512] = 100  # upper half
        entry = {'data': images.reshape(len(labels), -1), 'fine_labels': labels}
        (folder / file).write_bytes(pickle.dumps(entry))
    # Files of that name are not checked to be those of the real data set.
    monkeypatch.setattr(CIFAR100, 'train_list', [['train', None]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', None]])
    config = load(name)
    init_default_scope('mmpretrain')
    dataset = config[f'{split}_dataloader'].dataset
    dataset = CLASSIFICATION_DATASETS.build(
        dict(dataset, data_root=str(tmp_path), download=False)
    )
    assert len(dataset.metainfo['classes']) == 100
    labels = [7, 99, 0] if split == 'train' else [42, 1]
    assert [sample['data_samples'].gt_label.item() for sample in dataset] == labels
    inputs = dataset[0]['inputs']
    assert inputs.shape == (3, 224, 224)
    assert inputs[:, 0, 0].tolist() == [200, 0, 100]
    assert inputs[:, -1, -1].tolist() == [200, 0, 0]
    # The first channel of the mean is red's, and so is that of the images.
    assert not config.data_preprocessor.to_rgb
    assert config.data_preprocessor.mean[0] == 123.675


@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        ('lesa-r50_in1k', 23.778),
        ('sa-r50_in1k', 18.056),
        ('static-lesa-r50_in1k', 20.430),
        ('aa-r50_in1k', 25.245),
        ('lesa-wrn50_in1k', 61.146),
        ('sa-wrn50_in1k', 38.284),
        ('gsa-r38_in1k', 14.203),
        ('gsa-r50_in1k', 18.053),
        ('gsa-r101_in1k', 30.398),
        ('gsa-r50-content_in1k', 18.012),
        ('gsa-r50-columns_in1k', 16.771),
        ('gsa-r50-rows_in1k', 16.771),
        ('gsa-r50-columns-rows_in1k', 16.795),
        ('gsa-r50-content-columns_in1k', 18.029),
        ('gsa-r50-content-rows_in1k', 18.029),
        ('gsa-r50-axial_in1k', 18.053),
        ('gsa-r50-c5_in1k', 20.848),
        ('gsa-r50-c4-c5_in1k', 18.504),
        ('gsa-r50-c3-c5_in1k', 18.121),
    ],
)
def test_classifiers_have_the_papers_parameters(name, millions):
    """To the printed digits; WRN's tables, AA and GSA's ablations are our count."""
    init_default_scope('mmpretrain')
    assert round(count(load(name)) / 1e6, 3) == millions
