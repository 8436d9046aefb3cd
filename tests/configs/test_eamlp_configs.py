"""The rows of the EA paper's Table II: sizes and parameters as printed there."""

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS

# Parameters in millions, as printed: backbone and head, the fixed position table too.
PRINTED = {
    't2t-vit7-h1_in1k': '4.3',
    't2t-vit7_in1k': '4.3',
    't2t-vit14_in1k': '21.5',
    't2t-vit-t14_in1k': '21.5',
    't2t-vit19_in1k': '39.2',
    't2t-vit7-ea_in1k': '4.2',
    't2t-vit14-ea_in1k': '21.5',
    't2t-vit7-mea-h1-s256_in1k': '4.3',
    't2t-vit7-mea-h4-s256_in1k': '5.9',
    't2t-vit7-mea_in1k': '6.2',
    't2t-vit7-mea_in1k_384': '6.3',
    't2t-vit7-mea-h16-s128_in1k': '6.3',
    't2t-vit7-mea-h32-s32_in1k': '9.9',
    't2t-vit14-mea_in1k': '29.9',
    't2t-vit19-mea_in1k': '54.6',
    'eamlp7_in1k': '6.1',
    'eamlp-bn7_in1k': '6.1',
    'eamlp7_in1k_384': '6.2',
    'eamlp14_in1k': '29.9',
    'eamlp19_in1k': '54.6',
}
NOT_PRINTED = ('mlp7_in1k', 'eamlp-bn14_in1k', 'eamlp-bn19_in1k')  # "failed"
EXACT = {'eamlp7_in1k': 6.147, 'eamlp14_in1k': 29.877, 'eamlp19_in1k': 54.559}
TRAINABLE = {
    'eamlp7_in1k': 6.096,
    'eamlp14_in1k': 29.801,
    'eamlp19_in1k': 54.471,
    't2t-vit7-mea_in1k': 6.156,
    't2t-vit14-mea_in1k': 29.861,
    't2t-vit19-mea_in1k': 54.531,
}


@pytest.fixture(autouse=True)
def _mmpretrain_scope():
    init_default_scope('mmpretrain')


def millions(model, trainable: bool = False) -> float:
    return 1e-6 * sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad or not trainable
    )


def build(config: dict):
    with torch.device('meta'):
        return MODELS.build(config)


def documented(repo, name: str) -> str:
    """Parameters in millions as the documentation's table has them."""
    lines = (repo / 'docs/eamlp.md').read_text().splitlines()
    (row,) = (line for line in lines if line.startswith(f'| `{name}` |'))
    *_, parameters, _, _ = row.split('|')
    return parameters.strip()


def test_every_row_has_its_config(repo):
    configs = (repo / 'configs').glob('*_in1k*.py')
    rows = {path.stem for path in configs if 'mlp' in path.stem or 't2t' in path.stem}
    assert rows == {*PRINTED, *NOT_PRINTED}
    assert len(rows) == 23


@pytest.mark.parametrize('name', PRINTED)
def test_parameters_are_as_printed(repo, name):
    config = Config.fromfile(repo / f'configs/{name}.py')
    model = build(config.model)
    assert f'{millions(model):.1f}' == PRINTED[name]
    if name in EXACT:
        assert round(millions(model), 3) == EXACT[name]
    if name in TRAINABLE:
        assert round(millions(model, trainable=True), 3) == TRAINABLE[name]
    assert documented(repo, name) == f'{millions(model):.3f}'
    first_lines = (repo / f'configs/{name}.py').read_text().split('_base_')[0]
    assert f'{PRINTED[name]} M parameters printed' in first_lines.replace('\n# ', ' ')


@pytest.mark.parametrize('name', NOT_PRINTED)
def test_rows_that_failed_say_so(repo, name):
    assert '"failed"' in (repo / f'configs/{name}.py').read_text().partition('\n')[0]
    model = build(Config.fromfile(repo / f'configs/{name}.py').model)
    assert documented(repo, name) == f'{millions(model):.3f}'


@pytest.mark.parametrize(
    ('name', 'lr', 'weight_decay'),
    [
        ('eamlp7_in1k', 1e-3, 0.03),
        ('eamlp7_in1k_384', 1e-3, 0.03),
        ('eamlp14_in1k', 5e-4, 0.05),
        ('eamlp19_in1k', 5e-4, 0.065),
    ],
)
def test_schedule_is_t2t_vits(repo, name, lr, weight_decay):
    config = Config.fromfile(repo / f'configs/{name}.py')
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', lr)
    assert optimizer.weight_decay == weight_decay
    warm_up, cosine, cool_down = config.param_scheduler
    assert (warm_up.end, cosine.end, cool_down.end) == (10, 300, 310)
    assert cosine.eta_min == 1e-5
    assert config.custom_hooks[0].momentum == pytest.approx(1 - 0.99996)
    augments = {aug.type: aug.alpha for aug in config.model.train_cfg.augments}
    assert augments == {'Mixup': 0.8, 'CutMix': 1.0}
    assert config.train_dataloader.batch_size == 64
    assert config.auto_scale_lr.base_batch_size == 512
    assert config.model.backbone.drop_path_rate == 0.1


@pytest.mark.parametrize(('name', 'size'), [('eamlp7', 224), ('eamlp7_384', 384)])
def test_images_are_of_the_size_of_the_position_table(repo, name, size):
    name = name.replace('7', '7_in1k', 1)
    config = Config.fromfile(repo / f'configs/{name}.py')
    for split in ('train', 'val', 'test'):
        pipeline = config[f'{split}_dataloader'].dataset.pipeline
        image = torch.zeros(500, 400, 3, dtype=torch.uint8).numpy()
        results = dict(img=image, img_shape=image.shape[:2], gt_label=0)
        for step in pipeline[1:]:
            results = TRANSFORMS.build(step)(results)
        assert results['inputs'].shape == (3, size, size)
    backbone = build(config.model.backbone)
    assert backbone.pos_embed.shape[1] == 1 + (size // 16) ** 2
