"""Looks at every file of the data sets of a config, and says what is wrong with them.

python -m attn_plugins check CONFIG
python -m attn_plugins check CONFIG --splits train --data-root DIR

Training looks at 20,000 images of a data set; this at all of them. It ends with an
error if anything is broken, and counts what mmdet leaves out without a word.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.utils import track_iter_progress

from ..mm.apis.launch import add_config_options, read_config
from ..mm.datasets.checks import broken_files, check_data, list_samples
from ..mm.datasets.image_files import check_labels, label_count
from ..mm.datasets.settings import SPLITS, datasets_of, type_name
from ..mm.engine.errors import DataError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=['train', 'val'])
    add_config_options(parser)
    return parser.parse_args(argv)


def check_dataset(settings: dict, cfg: Config) -> list[str]:
    """Checks all files of a data set, prints a summary, and returns what is broken."""
    samples = list_samples(settings, cfg)
    if not samples:
        print(f'{type_name(settings)}: no image files that can be looked at here')
        return []
    steps = [s for s in settings.get('pipeline') or [] if type_name(s)]
    load = next((s for s in steps if type_name(s) == 'LoadAnnotations'), None)
    if cfg.get('default_scope') != 'mmseg':
        load = None  # the frameworks make their labels from names
    if load:
        dataset = DATASETS.build({**settings, 'pipeline': []})
        load = TRANSFORMS.build(load)
    broken, unlabelled = [], 0
    for index in track_iter_progress(range(len(samples))):
        found = list(broken_files([samples[index]]))
        if load and not found:
            info = dataset.get_data_info(index)
            labels = load(info)['gt_seg_map']
            found, ignored = _wrong_labels(labels, cfg, info.get('seg_map_path'))
            unlabelled += bool(np.all(labels == ignored))
        broken += found
    print(
        f'\n{type_name(settings)}: {len(samples)} images, {len(broken)} broken, '
        f'{unlabelled} whose every pixel is ignored'
    )
    if unlabelled and unlabelled == len(samples):
        broken.append('every pixel of every label map is ignored: nothing to learn')
    return broken


def _wrong_labels(labels: np.ndarray, cfg: Config, path: str) -> tuple[list[str], int]:
    """Says what is wrong with the values of a label map, and which one is ignored."""
    head = cfg.model.get('decode_head') or {}
    head = head[-1] if isinstance(head, list) else head
    ignored, classes = head.get('ignore_index', 255), head.get('num_classes')
    try:
        if classes:
            classes = label_count(classes, head.get('out_channels'))
            check_labels(labels, classes, ignored, path)
    except DataError as error:
        return [str(error)], ignored
    return [], ignored


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = read_config(args.config, args.cfg_options, args.data_root)
    check_data(cfg, *args.splits)
    datasets = datasets_of(cfg, *args.splits)
    broken = [line for settings in datasets for line in check_dataset(settings, cfg)]
    if broken:
        raise DataError(f'{len(broken)} broken:\n  ' + '\n  '.join(broken))
