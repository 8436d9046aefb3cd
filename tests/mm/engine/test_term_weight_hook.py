"""The hook that reports what layers owe to which term."""

import pytest
import torch

pytest.importorskip('mmengine')
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.modules import LESA2d


class Model(BaseModel):
    def __init__(self, **options) -> None:
        super().__init__()
        self.first = LESA2d(8, num_heads=2, rel_pos_size=4, **options)
        self.second = LESA2d(8, num_heads=2, rel_pos_size=4, **options)

    def forward(self, inputs, mode='tensor'):
        x = self.second(self.first(torch.stack(inputs)))
        return list(x) if mode == 'predict' else x


class Mean(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(mean=float(torch.stack(results).mean()))


def evaluate(folder, loop='val', hook=None, **options) -> tuple[Runner, dict]:
    torch.manual_seed(0)
    images = list(torch.randn(3, 8, 4, 5))
    part = dict(
        dataloader=DataLoader(
            images, batch_size=2, collate_fn=lambda x: dict(inputs=x)
        ),
        evaluator=Evaluator([Mean()]),
        cfg=dict(),
    )
    runner = Runner(
        Model(**options),
        str(folder),
        custom_hooks=[dict(type='TermWeightHook', **(hook or {}))],
        default_scope='mmengine',
        experiment_name='-'.join(folder.parts[-2:]),
        **{f'{loop}_{key}': value for key, value in part.items()},
    )
    return runner, getattr(runner, loop)()


@pytest.mark.parametrize('loop', ['val', 'test'])
@pytest.mark.parametrize('variant', ['dynamic', 'attention'])
def test_shares_are_logged_beside_the_metrics(tmp_path, variant, loop):
    runner, _ = evaluate(tmp_path, loop, variant=variant)
    first, second, average = (
        runner.message_hub.get_scalar(f'{loop}/unary/{name}').current()
        for name in ('first', 'second', 'average')
    )
    assert average == pytest.approx((first + second) / 2)
    assert 0.5 < average < 1 if variant == 'dynamic' else 0 < average < 0.5
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'{"average":<32} {100 * average:8.2f} {100 - 100 * average:8.2f}' in log


def test_evaluation_without_unary(tmp_path):
    options = dict(variant='attention')
    _, whole = evaluate(tmp_path / 'whole', **options)
    runner, rest = evaluate(tmp_path / 'rest', hook=dict(without_unary=True), **options)
    assert rest['mean'] != pytest.approx(whole['mean'], rel=1e-3)
    assert not runner.model.first.context.without_unary  # training goes on as it was


def test_without_unary_is_for_self_attention(tmp_path):
    with pytest.raises(ValueError, match=r"got the layer first of variant='dynamic'"):
        evaluate(tmp_path, hook=dict(without_unary=True))
