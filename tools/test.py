"""Tests a trained model: metrics, predictions, files for the test servers.

python tools/test.py CONFIG CKPT                          # metrics
python tools/test.py CONFIG CKPT --tta                    # multi-scale and flip
python tools/test.py CONFIG CKPT --show-dir pictures      # painted predictions
python tools/test.py CONFIG CKPT --out predictions.pkl    # and raw predictions
python tools/test.py CONFIG CKPT --out DIR --format-only  # for a test server
"""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

from attn_plugins.mm.apis.launch import (
    LaunchError,
    add_common_arguments,
    check_checkpoint,
    check_data,
    load_config,
    one_line_errors,
)
from attn_plugins.mm.apis.testing import (
    augment_test_time,
    dump_predictions,
    format_results,
    paint_predictions,
)
from attn_plugins.mm.datasets.run_checks import check_run
from attn_plugins.mm.engine.processes import prepare_processes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: scales and flips'
    )
    parser.add_argument('--show-dir', help='folder for painted truth and prediction')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='FILE.pkl for raw predictions (large: logits of every pixel), otherwise a '
        'folder for formatted ones '
        '(label maps for segmentation, COCO JSON for detection)',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the test server files to the folder --out, compute no metrics and '
        'load no label maps',
    )
    add_common_arguments(parser)
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> Config:
    """Turns the arguments into settings of the config."""
    to_file = bool(args.out) and args.out.endswith(('.pkl', '.pickle'))
    if args.format_only and (not args.out or to_file):
        raise LaunchError('--format-only needs a folder to write to: --out DIR')
    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    # mmseg's visualization hook asks the runner for its iteration, which builds the
    # training loop if there is one, and with it a data set that testing does not need.
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg[part] = None
    if args.tta:
        augment_test_time(cfg)
    if args.show_dir:
        paint_predictions(cfg, args.show_dir)
    if to_file:
        dump_predictions(cfg, args.out)
    elif args.out:
        format_results(cfg, args.out, only=args.format_only)
    check_data(cfg, 'test', labels=not args.format_only)
    check_run(cfg, 'test')
    return cfg


def main() -> None:
    args = parse_args()
    cfg = prepare(args)
    prepare_processes(cfg)
    Runner.from_cfg(cfg).test()
    for folder in filter(None, (args.show_dir, args.out)):
        print(f'wrote {folder}')


if __name__ == '__main__':
    with one_line_errors():
        main()
