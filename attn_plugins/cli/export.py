"""Exports a model for programs without mm, or without Python.

python -m attn_plugins export CONFIG CHECKPOINT --format onnx --out eanet.onnx
python -m attn_plugins export CONFIG CHECKPOINT --format torchscript --out eanet.pt
python -m attn_plugins export CONFIG CHECKPOINT --format exported --out eanet.pt2

It takes normalised images of any size. Segmentors and classifiers give logits, those of
a segmentor at the size of the image; detectors give the feature maps of backbone and
neck. The file is run and compared with the model, and carries mean, standard deviation,
order of the channels and the classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..mm.apis.export import (
    PARTS,
    SUFFIXES,
    TOLERANCE,
    Traced,
    check_exportable,
    check_file,
    export,
    facts_of,
    largest_difference,
)
from ..mm.apis.launch import (
    LaunchError,
    add_config_options,
    check_checkpoint,
    read_config,
)
from ..mm.apis.prediction import Predictor, writable_folder
from ..visualization import UNTRAINED


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file')
    parser.add_argument('--format', choices=SUFFIXES, default='onnx', help='onnx')
    parser.add_argument('--out', required=True, metavar='FILE', help='file to write')
    parser.add_argument(
        '--part',
        choices=PARTS,
        help='the whole model, its feature maps (backbone and neck), or those of the '
        'backbone alone; the model, but of a detector its features',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=(128, 192),
        metavar=('H', 'W'),
        help='size of the image to trace with; 128 192',
    )
    parser.add_argument(
        '--static',
        action='store_true',
        help='take one image of this size alone, not any number of any size',
    )
    add_config_options(parser)
    return parser.parse_args(argv)


def sizes_to_check(size: Sequence[int], static: bool) -> list[tuple[int, int, int]]:
    """Lists batch, height and width of what the file is compared on."""
    height, width = size
    if static:
        return [(1, height, width)]
    # Odd, and with height and width the other way round.
    return [(1, height, width), (2, width - 27, height + 5)]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if min(args.size) < 64:
        raise LaunchError(f'--size must be at least 64 64, got {args.size}')
    check_file(args.out, args.format)
    cfg = read_config(args.config, args.cfg_options)
    check_exportable(cfg)
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    writable_folder(Path(args.out).parent)
    predictor = Predictor(cfg, args.checkpoint, 'cpu')
    if not predictor.trained:
        print(UNTRAINED)
    part = args.part
    if part is None:
        part = 'features' if predictor.task == 'detection' else 'model'
        if part == 'features':
            print('a detector: its feature maps are exported (backbone and neck)')
    traced = Traced(predictor, part).eval()
    facts = facts_of(predictor, Path(args.config).name)
    exported = export(
        traced, args.format, args.out, tuple(args.size), facts, static=args.static
    )
    print(f'wrote {args.out}: image -> {", ".join(exported.outputs)}')
    if exported.run is None:
        print("not compared with the model: pip install 'attn_plugins[export]'")
        return
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in sizes_to_check(args.size, args.static):
        image = torch.randn(batch, 3, height, width, generator=generator)
        difference = largest_difference(traced, exported.run, image)
        print(f'largest difference {difference:.1e} for {batch} x {height} x {width}')
        if not difference <= TOLERANCE:
            raise LaunchError(
                f'{args.out} differs from the model by {difference:.1e}, more than '
                f'{TOLERANCE:g}: do not use it'
            )
