"""Training step of whole models: EA configs beside their stock bases."""

import argparse
import statistics

import torch
from complexity import MODEL_PAIRS, build_model, load_model_config
from mmdet.testing import demo_mm_inputs
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from benchmarks.measure import Step, time_in_turns
from benchmarks.tables import MACHINE, Row, environment, markdown, write_csv

COLUMNS = (
    'config', 'stock', 'mode', 'device', 'H', 'W', 's_median', 's_median_stock',
    'ratio', 'repeats', *MACHINE,
)  # fmt: skip


def model_step(name: str, height: int, width: int) -> Step:
    """Returns a training step (forward, loss, backward) on one drawn image."""
    model = build_model(load_model_config(name))
    model = revert_sync_batchnorm(model).train()
    if hasattr(model, 'decode_head'):
        sample = SegDataSample(metainfo=dict(img_shape=(height, width)))
        labels = torch.randint(model.num_classes, (1, height, width))
        sample.gt_sem_seg = PixelData(data=labels)
        inputs, samples = torch.randn(1, 3, height, width), [sample]
    else:
        data = demo_mm_inputs(1, [(3, height, width)], with_mask=True)
        data = model.data_preprocessor(data, True)
        inputs, samples = data['inputs'], data['data_samples']

    def step() -> Tensor:
        model.zero_grad()
        loss, _ = model.parse_losses(model.loss(inputs, samples))
        loss.backward()
        return loss.detach()

    return step


def run(args: argparse.Namespace) -> None:
    ((height, width),) = args.sizes or [(256, 256)]
    known = environment(torch.device('cpu')) | dict(mode='training', H=height, W=width)
    rows: list[Row] = []
    for pair in MODEL_PAIRS.items():
        torch.manual_seed(0)
        steps = [model_step(name, height, width) for name in pair]
        times = time_in_turns(steps, 0)
        ours, base = (statistics.median(found) / 1e3 for found in times)
        row = dict(zip(('config', 'stock'), pair, strict=True), repeats=len(times[0]))
        row |= dict(s_median=round(ours, 2), s_median_stock=round(base, 2))
        rows.append(known | row | dict(ratio=round(ours / base, 2)))
        write_csv(rows, args.out / 'models.csv', COLUMNS)
    keys = ('config', 's_median', 's_median_stock', 'ratio')
    print(f'training step, 1 x 3 x {height} x {width}')
    print(markdown(keys, [[row[key] for key in keys] for row in rows]))
    print(f'wrote {args.out / "models.csv"}')
