"""The main job from end to end, on data that it draws itself.

Draws a small data set, trains EANet on it, tests the last checkpoint and paints
predictions and curves. Takes two or three minutes on 2 CPU cores.

    python tools/demo.py
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
import warnings
from pathlib import Path

import cv2
import torch
from make_demo_data import SCENES, make_demo_data
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint

from attn_plugins.visualization import (
    Sample,
    prediction_panels,
    read_scalars,
    training_curves,
)

ROOT = Path(__file__).resolve().parents[1]
GOAL = 75.0


class Progress(Hook):
    """Prints a line now and then in place of mmengine's full log."""

    def __init__(self, interval: int = 10):
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        self.start = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx, data_batch, outputs) -> None:
        if self.every_n_train_iters(runner, self.interval):
            done, last = runner.iter + 1, runner.max_iters
            left = (time.monotonic() - self.start) * (last - done) / done
            print(
                f'  iteration {done:3d} of {last}, loss {outputs["loss"].item():.2f}, '
                f'{left:.0f} s left',
                flush=True,
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        print(f'  validation: mIoU {metrics["mIoU"]:.1f}', flush=True)


def load_config() -> Config:
    """Loads the demo's config, with mmengine's own console output turned off."""
    cfg = Config.fromfile('configs/eanet_r18_demo.py')
    cfg.work_dir = 'work_dirs/eanet_r18_demo'
    cfg.log_level = 'ERROR'
    return cfg


def train(cfg: Config) -> Path:
    """Trains, and returns the log that mmengine wrote."""
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Progress())
    runner.train()
    return Path(runner.log_dir) / 'vis_data' / 'scalars.json'


def evaluate(cfg: Config, checkpoint: str) -> tuple[float, Runner]:
    """Loads a checkpoint from disk, and returns its mIoU and the runner that has it."""
    cfg.load_from = checkpoint
    runner = Runner.from_cfg(cfg)
    return runner.test()['mIoU'], runner


@torch.inference_mode()
def predict(runner: Runner, count: int) -> list[Sample]:
    """Predicts the first pictures of the validation part; there is no choosing."""
    found = []
    for batch in runner.test_dataloader:
        for result in runner.model.test_step(batch):
            image = cv2.imread(result.img_path)[..., ::-1]
            truth, prediction = result.gt_sem_seg.data, result.pred_sem_seg.data
            found.append(Sample(image, truth[0].numpy(), prediction[0].cpu().numpy()))
            if len(found) == count:
                return found
    return found


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    start = time.monotonic()
    # The config names its data from the root, as do all configs.
    os.chdir(ROOT)
    # Nothing that a reader of the demo could do anything about.
    warnings.filterwarnings('ignore')
    # mmengine asks the compiler for its version, and the shell complains of none.
    sysconfig.get_config_vars()['CC'] = 'true'

    print('1. drawing 280 pictures to data/demo', flush=True)
    try:
        make_demo_data(Path('data/demo'))
    except OSError as error:
        sys.exit(f'demo: error: {error}')

    cfg = load_config()
    print(f'2. training EANet ({cfg.filename}), a minute or two on 2 cores', flush=True)
    log = train(cfg)

    checkpoint = find_latest_checkpoint(cfg.work_dir)
    print(f'3. testing {os.path.relpath(checkpoint)}', flush=True)
    miou, runner = evaluate(cfg, checkpoint)

    print('4. painting', flush=True)
    # One picture of each kind of scene: the drawing takes them in turn.
    meta = runner.test_dataloader.dataset.metainfo
    samples = predict(runner, len(SCENES))
    pictures = {
        'panels.png': prediction_panels(samples, meta['classes'], meta['palette']),
        'curves.png': training_curves({'EANet': read_scalars(log)}),
    }
    for name, figure in pictures.items():
        figure.savefig(Path(cfg.work_dir, name), dpi=120)

    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f'\nmIoU {miou:.2f} over the {len(meta["classes"])} classes drawn')
    print(f'time {minutes} min {seconds} s')
    for name in pictures:
        print(f'wrote {Path(cfg.work_dir, name)}')
    if miou < GOAL:
        sys.exit(f'demo: error: the mIoU should have reached {GOAL:.0f}')


if __name__ == '__main__':
    main()
