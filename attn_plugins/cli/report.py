"""Writes one HTML page about a run: it holds all it shows and opens offline.

python -m attn_plugins report work_dirs/eanet_r18_demo
python -m attn_plugins report WORK_DIR --test   # evaluate anew, for results by class
python -m attn_plugins report WORK_DIR --images a.jpg b.jpg --point 120 80

Config against its stock base, parameters and multiply-accumulates, curves, results by
class, sample predictions, attention sheets.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from ..mm.apis.launch import (
    LaunchError,
    add_config_options,
    check_checkpoint,
    check_data,
    read_config,
)
from ..mm.apis.maps import attention_of, draw_sheets
from ..mm.apis.prediction import Predictor, read_image, writable_folder
from ..mm.apis.runs import (
    class_tables,
    config_diff,
    count_macs,
    parameter_table,
    read_stock,
    run_checkpoint,
    run_config,
    versions,
)
from ..visualization import (
    UNTRAINED,
    Page,
    Sample,
    attention_layers,
    main_metrics,
    prediction_panels,
    read_run,
    series,
    training_curves,
)
from .configs import FOLDER, stock_bases

LONGEST = 240  # letters of a setting that are shown


class Shown(NamedTuple):
    """An image of the report.

    Attributes:
        name: Its file name.
        image: BGR ``(H, W, 3)``.
        truth: Class indices ``(H, W)``, or the name of its class, or None.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray | str | None = None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', help='work folder of the run')
    parser.add_argument(
        '--out', metavar='FILE', help='the page; report.html in the work folder'
    )
    parser.add_argument('--checkpoint', help='in place of the last one of the run')
    parser.add_argument(
        '--config',
        help='config file that the run was started with; the one of its name in '
        'configs/ if not given',
    )
    parser.add_argument(
        '--base',
        nargs='+',
        metavar='NAME',
        help='stock config to compare with, e.g. mmseg::fcn/fcn_r50-d8.py; that of '
        '--config if not given',
    )
    parser.add_argument('--test', action='store_true', help='evaluate the checkpoint')
    parser.add_argument('--images', nargs='+', metavar='FILE', help='images to show')
    parser.add_argument(
        '--num-images', type=int, default=4, metavar='N', help='else, of the test data'
    )
    parser.add_argument('--point', nargs=2, type=float, metavar=('X', 'Y'))
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...')
    add_config_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    path = run_config(args.work_dir)
    cfg = read_config(str(path), args.cfg_options, args.data_root)
    checkpoint = args.checkpoint or run_checkpoint(args.work_dir)
    checkpoint = str(checkpoint) if checkpoint else None
    if checkpoint:
        check_checkpoint(checkpoint)
    bases = find_bases(args, path)
    stock = read_stock(bases) if bases else None
    out = Path(args.out or Path(args.work_dir) / 'report.html')
    writable_folder(out.parent)
    # What mm says while it builds is nothing that a reader could do anything about.
    warnings.filterwarnings('ignore')

    predictor = Predictor(cfg, checkpoint, args.device)
    page = Page(f'Run {Path(args.work_dir).resolve().name}')
    page.table(
        ('', ''),
        [
            ('config', path.name),
            ('checkpoint', Path(checkpoint).name if checkpoint else 'none'),
            ('task', predictor.task),
            ('page made with', versions()),
        ],
    )
    if not predictor.trained:
        page.warning(UNTRAINED)
    images, missing = find_images(args, cfg)
    write_curves(page, args.work_dir)
    write_classes(page, args, cfg, checkpoint)
    write_predictions(page, predictor, images, missing)
    write_attention(page, predictor, images, args.point)
    write_size(page, predictor, images)
    write_config(page, cfg, bases, stock)
    page.write(out)
    print(f'wrote {out}')


def find_images(args: argparse.Namespace, cfg: Config) -> tuple[list[Shown], str]:
    """Reads the images to show, and says why there are none."""
    if args.images:
        return [Shown(Path(f).name, read_image(f)) for f in args.images], ''
    try:
        check_data(cfg, 'test')
        root = cfg.test_dataloader.dataset.get('data_root') or '.'
        found = '://' in root or Path(root).exists()
    except LaunchError:
        found = False
    if not found:  # some data sets would be downloaded then
        return [], (
            'The test data set is not where the config expects it; name its folder '
            'with --data-root, or images with --images.'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    images = []
    for index in range(min(args.num_images, len(dataset))):
        info = dataset.get_data_info(index)
        truth = None
        if 'seg_map_path' in info:
            truth = dataset[index]['data_samples'].get('gt_sem_seg')
            truth = None if truth is None else truth.data[0].numpy()
        elif 'gt_label' in info:
            names = dataset.metainfo.get('classes')
            label = int(np.ravel(info['gt_label'])[0])
            truth = names[label] if names else f'class {label}'
        if 'img_path' in info:
            name, image = Path(info['img_path']).name, read_image(info['img_path'])
        else:  # an array, as of CIFAR
            name, image = f'test image {index}', _bgr(np.asarray(info['img']))
        images.append(Shown(name, image, truth))
    return images, ''


def _bgr(image: np.ndarray) -> np.ndarray:
    """Turns RGB or grey into BGR, for data sets of arrays."""
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=2)
    return np.ascontiguousarray(image[..., ::-1])


def find_bases(args: argparse.Namespace, path: Path) -> list[str]:
    """Finds the names of the stock configs below that of a run, none if not known."""
    original = Path(args.config) if args.config else FOLDER / path.name
    if args.config and not original.is_file():
        raise LaunchError(f'there is no config file {original}')
    return args.base or (stock_bases(original) if original.is_file() else [])


def write_config(
    page: Page, cfg: Config, bases: Sequence[str], stock: Config | None
) -> None:
    page.heading('Config against its stock base')
    if stock is None:
        page.text(
            'No stock base is known: the config in a work folder does not name it. '
            'Name the config that the run was started with (--config), or the base '
            '(--base mmseg::...).'
        )
        return
    rows = config_diff(stock, cfg)
    page.text(f'{len(rows)} settings differ from {", ".join(bases)}.')
    page.table(('setting', 'stock', 'run'), [tuple(map(_short, row)) for row in rows])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'


def write_size(page: Page, predictor: Predictor, images: Sequence[Shown]) -> None:
    page.heading('Parameters and multiply-accumulates')
    page.table(
        ('part', 'parameters, 10^6', 'trained, 10^6'), parameter_table(predictor)
    )
    if images:
        height, width = images[0].image.shape[:2]
        macs = count_macs(predictor, images[0].image) / 1e9
        page.text(
            f'{macs:.2f} x 10^9 multiply-accumulates for an image of {width} x '
            f'{height} pixels, counted by torch: products and convolutions, without '
            "mmcv's compiled operators."
        )


def write_curves(page: Page, work_dir: str) -> None:
    page.heading('Curves')
    try:
        records = read_run(work_dir)
    except ValueError as error:
        page.text(f'No curves: {error}.')
        return
    keys = main_metrics([records])
    figure = training_curves({Path(work_dir).name: records}, ['loss', 'lr', *keys])
    page.picture(figure, 'training loss, learning rate and validation metrics')
    rows = []
    for key in keys:
        steps, values = series(records, key)
        best = int(np.argmax(values))
        rows.append((key, f'{values[-1]:.2f}', f'{values[best]:.2f}', steps[best]))
    if rows:
        page.table(('metric', 'last validation', 'best', 'best at'), rows)


def write_classes(
    page: Page, args: argparse.Namespace, cfg: Config, checkpoint: str | None
) -> None:
    page.heading('Results by class')
    if args.test:
        if checkpoint is None:
            raise LaunchError(
                f'--test needs a checkpoint, and {args.work_dir} has none'
            )
        check_data(cfg, 'test')
        with tempfile.TemporaryDirectory() as folder:
            metrics = evaluate(cfg, checkpoint, folder)
            tables = class_tables(folder)
        page.text(f'Test of {Path(checkpoint).name}:')
        page.table(
            ('metric', 'value'),
            [
                (key, f'{value:.4g}')
                for key, value in metrics.items()
                if isinstance(value, int | float | np.number)
            ],
        )
    else:
        tables = class_tables(args.work_dir)
    if not tables:
        page.text(
            'No table by class in the logs. --test makes one for segmentation; COCO '
            'detection needs test_evaluator.classwise=True as well.'
        )
        return
    for of, (header, *rows) in tables:
        if of:
            page.subheading(of)
        page.table(header, rows)


def evaluate(cfg: Config, checkpoint: str, folder: str) -> dict:
    """Runs the test of a config, as tools/test.py does."""
    cfg = cfg.copy()
    cfg.update(work_dir=folder, load_from=checkpoint, resume=False, launcher='none')
    cfg.log_level = 'INFO'  # that of the table
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg[part] = None
    return Runner.from_cfg(cfg).test()


def write_predictions(
    page: Page, predictor: Predictor, images: Sequence[Shown], missing: str
) -> None:
    page.heading('Sample predictions')
    if missing:
        page.text(missing)
    with_truth = [shown for shown in images if isinstance(shown.truth, np.ndarray)]
    if with_truth:
        samples = []
        for shown in with_truth:
            label = predictor.predict(shown.image).pred_sem_seg.data[0].numpy()
            samples.append(Sample(shown.image[..., ::-1], shown.truth, label))
        figure = prediction_panels(samples, predictor.classes, predictor.palette)
        page.text('The first of the test data: ' + _names(with_truth))
        page.picture(figure, 'input, truth and prediction')
        return
    for shown in images:
        page.subheading(shown.name)
        if shown.truth:
            page.text(f'truth: {shown.truth}')
        sample = predictor.predict(shown.image)
        page.picture(
            predictor.paint(shown.image, sample), f'prediction for {shown.name}'
        )


def _names(images: Sequence[Shown]) -> str:
    return ', '.join(shown.name for shown in images)


def write_attention(
    page: Page,
    predictor: Predictor,
    images: Sequence[Shown],
    point: Sequence[float] | None,
) -> None:
    page.heading('Attention')
    try:
        attention_layers(predictor.model)
    except ValueError as error:
        page.text(f'No maps: {error}.')
        return
    if not images:
        page.text('No image to show it on.')
        return
    shown = images[0]
    found = attention_of(predictor, shown.image, [point] if point else None)
    page.text(f'In {shown.name}.')
    for note in found.notes:
        page.text(note)
    warning = '' if predictor.trained else UNTRAINED
    for name, figure, description in draw_sheets(found, warning):
        page.subheading(name)
        page.text(description)
        page.picture(figure, f'{name}: {description}')
