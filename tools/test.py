"""Tests a trained model: metrics, predictions, files for the test servers.

python tools/test.py CONFIG CKPT                          # metrics
python tools/test.py CONFIG CKPT --tta                    # multi-scale and flip
python tools/test.py CONFIG CKPT --show-dir pictures      # painted predictions
python tools/test.py CONFIG CKPT --out predictions.pkl    # and raw predictions
python tools/test.py CONFIG CKPT --out DIR --format-only  # for a test server
"""

import argparse

from mmengine.registry import METRICS
from mmengine.runner import Runner

from attn_plugins.mm.apis.evaluation import (
    augment_test_time,
    format_results,
    paint_predictions,
)
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


def main() -> None:
    args = parse_args()
    to_file = bool(args.out) and args.out.endswith(('.pkl', '.pickle'))
    if args.format_only and (to_file or not args.out):
        raise LaunchError('--format-only needs a folder to write to: --out DIR')
    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.tta:
        augment_test_time(cfg)
    if args.show_dir:
        paint_predictions(cfg, args.show_dir)
    if args.out and not to_file:
        format_results(cfg, args.out, only=args.format_only)
    prepare_processes(cfg)
    if args.checks:
        check_run(cfg, 'test')
    runner = Runner.from_cfg(cfg)
    # Hooks that paint ask the runner for its iteration, which would build the training
    # loop and with it a data set that testing does not need.
    runner._train_loop = None
    if args.checks:
        add_checks(runner, training=False)
    if to_file:
        # mmdet's own stores masks run-length encoded.
        kind = (
            'DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
        )
        dump = METRICS.build(dict(type=kind, out_file_path=args.out))
        runner.test_evaluator.metrics.append(dump)
    runner.test()
    for folder in filter(None, (args.show_dir, args.out)):
        print(f'wrote {folder}')


if __name__ == '__main__':
    with one_line_errors():
        main()
