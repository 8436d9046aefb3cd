"""Trains any detection, segmentation or classification config.

python tools/train.py configs/eanet_r101_ade20k.py
python tools/train.py CONFIG --resume            # go on from the last checkpoint
tools/dist_train.sh CONFIG 4                     # 4 GPUs
"""

import argparse

from mmengine.device import is_cuda_available
from mmengine.registry import RUNNERS

from attn_plugins.mm.apis.launch import (
    LaunchError,
    add_common_arguments,
    check_checkpoint,
    load_config,
    one_line_errors,
)
from attn_plugins.mm.datasets.checks import add_checks, check_run
from attn_plugins.mm.engine.processes import prepare_processes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or from the last one in the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the batch size (auto_scale_lr in the config)',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='check command, config and data, no more'
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        if not is_cuda_available():
            raise LaunchError('--amp needs a GPU, and torch sees none')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise LaunchError('--auto-scale-lr needs auto_scale_lr in the config')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.load_from:
            check_checkpoint(cfg.load_from)
    prepare_processes(cfg)  # before check_run makes the work folder
    if args.checks:
        check_run(cfg, 'train', 'val')
    if args.dry_run:
        return
    # As in stock tools: a config for mmengine's strategies names another runner.
    runner = RUNNERS.get(cfg.get('runner_type', 'Runner')).from_cfg(cfg)
    if args.checks:
        add_checks(runner, training=True)
    runner.train()


if __name__ == '__main__':
    with one_line_errors():
        main()
