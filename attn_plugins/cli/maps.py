"""Shows what the attention layers of any model see in an image.

python -m attn_plugins maps IMAGE CONFIG CHECKPOINT --out DIR
python -m attn_plugins maps IMAGE CONFIG CHECKPOINT --out DIR --point 120 80
python -m attn_plugins maps IMAGE CONFIG CHECKPOINT --out DIR --list

External attention, of pixels or of tokens: maps of memory slots, in every head of the
multi-head form. LESA: the gate, and what a point attends to. Self-attention: what a
point attends to, and each pixel's weight for itself. GSA: content and positions of a
point. One contact sheet a layer (LAYER.png), all of them in index.html.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..mm.apis.launch import (
    LaunchError,
    add_config_options,
    check_checkpoint,
    read_config,
)
from ..mm.apis.maps import attention_of, draw_sheets
from ..mm.apis.prediction import Predictor, read_image, writable_folder
from ..visualization import UNTRAINED, Page, attention_layers


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    parser.add_argument('--layers', nargs='+', metavar='NAME', help='these layers only')
    parser.add_argument('--list', action='store_true', help='list the layers, and stop')
    parser.add_argument(
        '--point',
        nargs=2,
        type=float,
        action='append',
        metavar=('X', 'Y'),
        help='pixel of the image whose attention is shown, from the upper left corner; '
        'may be given several times; the centre of the image if never',
    )
    parser.add_argument(
        '--click', action='store_true', help='choose the point in a window'
    )
    parser.add_argument(
        '--slots', nargs='+', type=int, metavar='N', help='memory slots to show'
    )
    parser.add_argument(
        '--num-slots', type=int, default=7, metavar='N', help='how many, if not chosen'
    )
    parser.add_argument(
        '--grid',
        nargs=2,
        type=int,
        metavar=('ROWS', 'COLUMNS'),
        help='of the tokens of external attention, where the size of the image does '
        'not tell; with --layers where layers have different ones',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...')
    add_config_options(parser)
    return parser.parse_args(argv)


def click(image: np.ndarray) -> tuple[float, float]:
    """Lets the user choose a pixel of a BGR image in a window."""
    from matplotlib import pyplot as plt

    if plt.get_backend().lower() == 'agg':
        raise LaunchError('--click needs a display; use --point X Y')
    plt.imshow(image[..., ::-1])
    plt.title('click a point')
    chosen = plt.ginput(1, timeout=0)
    plt.close()
    if not chosen:
        raise LaunchError('no point was clicked')
    (point,) = chosen
    print(f'--point {point[0]:.0f} {point[1]:.0f}')
    return point


def list_layers(predictor: Predictor) -> None:
    """Prints the layers of a model that there are maps of."""
    try:
        layers = attention_layers(predictor.model)
    except ValueError as error:
        raise LaunchError(str(error)) from None
    for name, layer in layers.items():
        print(f'{name}  {type(layer).__name__}')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.num_slots < 1:
        raise LaunchError(f'--num-slots must be positive, got {args.num_slots}')
    image = read_image(args.image)
    cfg = read_config(args.config, args.cfg_options)
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    if not args.list:
        writable_folder(args.out)
    predictor = Predictor(cfg, args.checkpoint, args.device)
    if args.list:
        list_layers(predictor)
        return
    points = [click(image)] if args.click else args.point
    found = attention_of(
        predictor,
        image,
        points,
        layers=args.layers,
        slots=args.slots,
        num_slots=args.num_slots,
        grid=args.grid and tuple(args.grid),
    )
    warning = '' if predictor.trained else UNTRAINED
    if warning:
        print(warning)
    page = Page(f'Attention in {Path(args.image).name}')
    page.text(
        f'config {args.config}, checkpoint {args.checkpoint or "none"}, input of the '
        f'network {found.image.shape[1]} x {found.image.shape[0]} pixels'
    )
    if warning:
        page.warning(warning)
    for note in found.notes:
        print(note)
        page.text(note)
    for name, figure, description in draw_sheets(found, warning):
        path = Path(args.out) / f'{name}.png'
        figure.savefig(path, dpi=110)
        print(f'{path}  {description}')
        page.heading(name)
        page.text(description)
        page.picture(figure, f'{name}: {description}')
    path = Path(args.out) / 'index.html'
    page.write(path)
    print(f'wrote {path}')
