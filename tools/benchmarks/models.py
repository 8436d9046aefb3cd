"""Training step of whole models: EA configs beside their stock bases."""

import argparse
import statistics
from pathlib import Path

import torch
from complexity import MODEL_PAIRS, build_model, load_model_config
from mmdet.testing import demo_mm_inputs
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from benchmarks.measure import Step, time_in_turns
from benchmarks.options import parse_size
from benchmarks.report import Row, environment, write_csv
from benchmarks.tables import markdown

COLUMNS = (
    'config', 'stock', 'mode', 'device', 'H', 'W', 's_median', 's_median_stock',
    'ratio', 'repeats', 'torch', 'threads', 'hardware', 'commit',
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--size',
        type=parse_size,
        default=(256, 256),
        metavar='HxW',
        help='of the image; default: 256x256',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmark'),
        help='folder of models.csv; default: work_dirs/benchmark',
    )


def run(args: argparse.Namespace) -> None:
    device = torch.device('cpu')
    height, width = args.size
    known = environment(device) | dict(mode='training', H=height, W=width)
    rows: list[Row] = []
    for config, stock in MODEL_PAIRS.items():
        torch.manual_seed(0)
        steps = {name: model_step(name, height, width) for name in (config, stock)}
        for step in steps.values():
            step()
        times = time_in_turns(steps, 0, device)
        ours, base = (statistics.median(times[name]) / 1e3 for name in (config, stock))
        rows.append(
            known
            | dict(config=config, stock=stock, repeats=len(times[config]))
            | dict(s_median=round(ours, 2), s_median_stock=round(base, 2))
            | dict(ratio=round(ours / base, 2))
        )
        print(f'{config}  {ours:.2f}  {base:.2f}', flush=True)
        write_csv(rows, args.out / 'models.csv', COLUMNS)
    title = f'training step, 1 x 3 x {height} x {width}'
    header = (title, 'with EA, s', 'stock base, s', 'ratio')
    shown = ('s_median', 's_median_stock', 'ratio')
    cells = [
        [str(row['config']), *(f'{row[name]:.2f}' for name in shown)] for row in rows
    ]
    print(markdown(header, cells))
    print(f'wrote {args.out / "models.csv"}')
