"""Every shipped config loads, builds, and differs from its stock base as it says."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
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

# What each config may change, and must: prefixes of the flattened keys.
HEAD = {'custom_imports', 'model.decode_head'}
VOC = {
    *HEAD,
    'crop_size',
    'data_preprocessor.size',
    'model.data_preprocessor.size',
    'model.backbone.stem_channels',
    'model.backbone.multi_grid',
    'model.auxiliary_head.align_corners',
    'train_pipeline',
    'train_dataloader.dataset.datasets',
    'optim_wrapper.optimizer.lr',
    'optim_wrapper.optimizer.weight_decay',
    'param_scheduler',
    'train_cfg.max_iters',
    'train_cfg.val_interval',
    'default_hooks.checkpoint.interval',
}
DEPTH = {'model.backbone.depth', 'model.pretrained'}
TRAINVAL = {
    'load_from',
    'model.pretrained',
    'train_dataloader.dataset',
    'optim_wrapper.optimizer.lr',
    'param_scheduler',
    'train_cfg.max_iters',
    'train_cfg.val_interval',
    'default_hooks.checkpoint.interval',
}
OS16 = {
    'model.backbone.strides',
    'model.backbone.dilations',
    'model.backbone.multi_grid',
    'train_dataloader.batch_size',
    'param_scheduler',
    'train_cfg.max_iters',
    'train_cfg.val_interval',
    'default_hooks.checkpoint.interval',
}
ATTN = {'model.decode_head.attn'}
NECK = {'custom_imports', 'model.neck'}
SQUARE = {  # images resized to one square, whatever their aspect ratio
    'train_pipeline',
    'test_pipeline',
    'train_dataloader.dataset.pipeline',
    'val_dataloader.dataset.pipeline',
    'test_dataloader.dataset.pipeline',
}
BATCH = {'optim_wrapper.optimizer.lr', 'auto_scale_lr.base_batch_size'}
EPOCHS_20 = {'train_cfg.max_epochs', 'param_scheduler'}
LESA = {
    'custom_imports',
    'model.backbone.type',
    'model.backbone.rel_pos_input_size',
}
WIDE = {'model.backbone.wide', 'model.backbone.init_cfg.checkpoint'}
WRN = {
    'custom_imports',
    'model.backbone.type',
    'model.backbone.stage_with_attn',
    *WIDE,
}
SA = {'model.backbone.attn'}
HTC_LESA = {'model.backbone.stage_with_attn', 'model.backbone.rel_pos_input_size'}
TEST_SIZE = {key for key in SQUARE if not key.startswith('train')}
GSA = {
    'model.pretrained',
    'model.backbone.type',
    'model.backbone.rel_pos_input_size',
}
T2T = {'custom_imports', 'model.backbone.type', 'model.backbone.depth'}
T2T_7 = {
    'custom_imports',
    'model.backbone',
    'model.head.in_channels',
    'optim_wrapper.optimizer.lr',
    'optim_wrapper.optimizer.weight_decay',
}
SIZE_384 = {'model.backbone.img_size', *SQUARE}  # the data's pipelines
TOKENS = {'model.backbone.token_type'}
BLOCKS = {'model.backbone.attn_type'}
HEADS = {'model.backbone.attn'}
MLP_NORM = {'model.backbone.mlp_norm_cfg'}
ATTENTION_RESNET = {
    'custom_imports',
    'model.backbone.type',
    'model.backbone.rel_pos_input_size',
    'param_scheduler',
    'train_cfg.max_epochs',
    'auto_scale_lr.base_batch_size',
}
LAYER = {'model.backbone.attn'}
DEEPER = {'model.backbone.depth'}
CIFAR = {
    'data_preprocessor',
    'model.backbone.init_cfg',
    'model.head.num_classes',
    'train_dataloader.batch_size',
    'train_dataloader.dataset',
    'val_dataloader',
    'test_dataloader',
    'optim_wrapper.optimizer.lr',
    'param_scheduler',
    'train_cfg',
    'default_hooks.checkpoint',
    'log_processor',
    'auto_scale_lr.base_batch_size',
    # Parts of the data's pipelines.
    'resize',
    'flip',
    'pack',
    'data',
}
CHANGES = {
    'lesa-r50_in1k': ATTENTION_RESNET
    | LAYER
    | {
        'custom_hooks',
        'model.backbone.strides',
        'optim_wrapper.optimizer.lr',
        'optim_wrapper.optimizer.nesterov',
    },
    'sa-r50_in1k': LAYER,
    'sa-r50-without-unary_in1k': {'custom_hooks'},
    'static-lesa-r50_in1k': LAYER,
    'aa-r50_in1k': LAYER | {'custom_hooks'},
    'lesa-wrn50_in1k': {'model.backbone.wide'},
    'sa-wrn50_in1k': LAYER | {'model.backbone.wide'},
    'gsa-r50_in1k': ATTENTION_RESNET | {'train_dataloader.batch_size'},
    'gsa-r38_in1k': DEEPER,
    'gsa-r101_in1k': DEEPER,
    'gsa-r50-content_in1k': LAYER,
    'gsa-r50-columns_in1k': LAYER,
    'gsa-r50-rows_in1k': LAYER,
    'gsa-r50-columns-rows_in1k': LAYER,
    'gsa-r50-content-columns_in1k': LAYER,
    'gsa-r50-content-rows_in1k': LAYER,
    'gsa-r50-axial_in1k': LAYER,
    'gsa-r50-c5_in1k': {'model.backbone.stage_with_attn'},
    'gsa-r50-c4-c5_in1k': {'model.backbone.stage_with_attn'},
    'gsa-r50-c3-c5_in1k': {'model.backbone.stage_with_attn'},
    'gsa-r50_cifar100': CIFAR,
    'gsa-r38_cifar100': DEEPER | {'model.backbone.init_cfg.checkpoint'},
    'gsa-r101_cifar100': DEEPER | {'model.backbone.init_cfg.checkpoint'},
    'eamlp7_in1k': T2T_7,
    'eamlp7_in1k_384': SIZE_384,
    'eamlp14_in1k': T2T,
    'eamlp19_in1k': T2T,
    'eamlp-bn7_in1k': MLP_NORM,
    'eamlp-bn14_in1k': MLP_NORM,
    'eamlp-bn19_in1k': MLP_NORM,
    'mlp7_in1k': TOKENS | BLOCKS,
    't2t-vit7_in1k': TOKENS | BLOCKS,
    't2t-vit7-h1_in1k': TOKENS | BLOCKS | {'model.backbone.layer_cfgs.num_heads'},
    't2t-vit14_in1k': TOKENS | BLOCKS,
    't2t-vit-t14_in1k': TOKENS | BLOCKS,
    't2t-vit19_in1k': TOKENS | BLOCKS,
    't2t-vit7-ea_in1k': BLOCKS,
    't2t-vit14-ea_in1k': BLOCKS,
    't2t-vit7-mea_in1k': TOKENS,
    't2t-vit7-mea_in1k_384': TOKENS,
    't2t-vit14-mea_in1k': TOKENS,
    't2t-vit19-mea_in1k': TOKENS,
    't2t-vit7-mea-h1-s256_in1k': TOKENS | BLOCKS,
    't2t-vit7-mea-h4-s256_in1k': TOKENS | HEADS,
    't2t-vit7-mea-h16-s128_in1k': TOKENS | HEADS,
    't2t-vit7-mea-h32-s32_in1k': TOKENS | HEADS,
    'faster-rcnn-ea_r50_coco': NECK,
    'mask-rcnn-ea_r50_coco': NECK,
    'retinanet-ea_r50_coco': NECK,
    'cascade-rcnn-ea_r50_coco': NECK,
    'cascade-mask-rcnn-ea_r50_coco': NECK,
    'mask-rcnn_r50_coco': SQUARE | BATCH,
    'mask-rcnn_lesa-r50_coco': LESA,
    'mask-rcnn_sa-r50_coco': LESA | SA,
    'mask-rcnn_wrn50_coco': WRN,
    'mask-rcnn_lesa-wrn50_coco': LESA | WIDE,
    'mask-rcnn_sa-wrn50_coco': LESA | WIDE | SA,
    'mask-rcnn_r50-dcn_coco_20e': SQUARE | BATCH | EPOCHS_20,
    'mask-rcnn_lesa-r50-dcn_coco_20e': LESA,
    'mask-rcnn_wrn50-dcn_coco_20e': WRN,
    'mask-rcnn_lesa-wrn50-dcn_coco_20e': LESA | WIDE,
    'mask-rcnn_lesa-r50-dcn_coco_20e_keep-ratio': LESA | BATCH | EPOCHS_20,
    'htc_wrn50-dcn_coco_20e': SQUARE
    | BATCH
    | WRN
    | {
        'model.backbone.dcn',
        'model.backbone.stage_with_dcn',
        'train_dataloader.batch_size',
    },
    'htc_lesa-wrn50-dcn_coco_20e': HTC_LESA,
    'htc_wrn50-dcn_coco_20e_1280': TEST_SIZE,
    'htc_lesa-wrn50-dcn_coco_20e_1280': HTC_LESA | TEST_SIZE,
    'htc_lesa-wrn50-dcn_coco_20e_keep-ratio': HTC_LESA | SQUARE,
    'mask-rcnn_gsa-r50_coco': GSA - {'model.pretrained'}
    | {
        'custom_imports',
        'model.backbone.frozen_stages',
        'model.backbone.norm_eval',
        'model.backbone.init_cfg',
    },
    'fcn_gsa-r50_ade20k': GSA | {'custom_imports'},
    'eanet_gsa-r50_ade20k': GSA | {'model.backbone.depth'},
    'eanet_r50_voc_os16': OS16,
    'eanet_r50_voc_os8': {key for key in OS16 if key.startswith('model')},
    'eanet_r50_voc_os16-s8': ATTN,
    'eanet_r50_voc_os16-s32': ATTN,
    'eanet_r50_voc_os16-s256': ATTN,
    'eanet_r50_voc_os16-softmax': ATTN,
    'sa-softmax_r50_voc': ATTN,
    'sa_r50_voc': ATTN,
    'fcn_r50_voc': ATTN,
    'eanet_r101_voc_os16': DEPTH,
    'eanet_r101_ade20k': HEAD,
    'eanet_r101_ade20k_fsdp': {'custom_imports', 'runner_type', 'policy', 'strategy'},
    'eanet_r50_ade20k': DEPTH,
    'eanet_r101_cityscapes': HEAD,
    'eanet_r50_cityscapes': DEPTH,
    'eanet_r101_voc': VOC - {'data_preprocessor.size'},
    'eanet_r50_voc': DEPTH,
    'eanet_r101_voc_trainval': TRAINVAL,
    'eanet_r50_voc_trainval': {'load_from', 'model.backbone.depth'},
}

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


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def base_of(name: str) -> Config:
    for node in ast.parse((CONFIGS / f'{name}.py').read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            base = ast.literal_eval(node.value)
    if '::' not in base:
        return Config.fromfile(CONFIGS / base)
    package, path = base.split('::')
    root = Path(__import__(package).__file__).parent
    return Config.fromfile(root / '.mim' / 'configs' / path)


def flatten(value, prefix: str = '') -> dict[str, object]:
    """Flattens dicts to dotted keys, without the scope that mmengine writes in."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, item in value.items():
        if key != '_scope_':
            flat.update(flatten(item, f'{prefix}.{key}' if prefix else key))
    return flat


def plain(value):
    """Strips mmengine's scope and types for a comparison."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k != '_scope_'}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def changed_keys(name: str) -> set[str]:
    config = {k: plain(v) for k, v in flatten(load(name).to_dict()).items()}
    base = {k: plain(v) for k, v in flatten(base_of(name).to_dict()).items()}
    keys = config.keys() | base.keys()
    return {key for key in keys if config.get(key, ...) != base.get(key, ...)}


@pytest.mark.parametrize('name', sorted(CHANGES))
def test_differs_from_its_base_only_as_listed(name):
    allowed = CHANGES[name]
    changed = changed_keys(name)
    used = {
        prefix
        for prefix in allowed
        for key in changed
        if key == prefix or key.startswith(f'{prefix}.')
    }
    unexpected = {
        key
        for key in changed
        if not any(key == p or key.startswith(f'{p}.') for p in allowed)
    }
    assert not unexpected
    assert used == allowed


def test_every_config_has_its_list():
    """But those whose data set is their own: CamVid and what the demo draws."""
    assert set(NAMES) - set(CHANGES) == {'eanet_r18_camvid', 'eanet_r18_demo'}


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


@pytest.mark.parametrize('name', sorted(set(NAMES) - SAME_NETWORK))
def test_trains_one_step_on_an_odd_image(name):
    config = load(name)
    size = image_size(name)
    init_default_scope(config.default_scope)
    if config.default_scope == 'mmseg':
        config.model.update(pretrained=None)
        samples = segmentation_batch()
    elif config.default_scope == 'mmpretrain':
        samples = classification_batch()
    else:
        samples = detection_batch(size)
    model = revert_sync_batchnorm(MODELS.build(config.model)).train()
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
    rows = [name for name in CHANGES if 'voc_os' in name]
    for name in (*rows, 'fcn_r50_voc', 'sa_r50_voc', 'sa-softmax_r50_voc'):
        config = load(name)
        assert config.train_dataloader.batch_size == 3
        assert config.train_cfg.max_iters == config.param_scheduler[0].end == 30000
    assert len(rows) + 3 == 10


def test_detectors_have_one_ea_after_stage_4():
    """+8.7 M parameters over the stock detector, none of them elsewhere."""
    init_default_scope('mmdet')
    name = 'faster-rcnn-ea_r50_coco'

    def count(config):
        model = MODELS.build(config.model)
        return sum(parameter.numel() for parameter in model.parameters())

    added = count(load(name)) - count(base_of(name))
    assert added == 2 * 2048**2 + 2048 + 2 * 64 * 2048 + 2 * 2048 == 8_656_896


def test_table_3_schedules_are_the_papers():
    """Rows of 12 and of 20 epochs; the first line says how the norms train."""
    rows = [name for name in NAMES if name in CHANGES and 'coco' in name]
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
        first_line = (CONFIGS / f'{name}.py').read_text().splitlines()[0]
        assert 'norm_eval=True, frozen_stages=1' in first_line
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
    model = MODELS.build(load(name).model)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 3) == millions
