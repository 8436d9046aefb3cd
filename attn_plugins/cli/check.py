"""Looks at every file of the data sets of a config, and says what is wrong with them.

python -m attn_plugins check CONFIG
python -m attn_plugins check CONFIG --splits train --data-root DIR

Training refuses what it meets; this finds all of it before. It ends with an error if
anything is broken, and counts what the hosts leave out without a word.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import track_iter_progress

from ..mm.apis.launch import (
    SPLITS,
    LaunchError,
    add_config_options,
    check_data,
    datasets_of,
    read_config,
)
from ..mm.datasets.checking import CheckFiles
from ..mm.datasets.config_checks import check_classes, check_config, type_name
from ..mm.datasets.dataset_checks import DataError, check_labels, label_count
from ..mm.datasets.run_checks import (
    check_annotations,
    check_folder,
    is_turned_by,
    summary,
)


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
    check_folder(settings, cfg.get('default_scope'))
    counts = check_annotations(settings, cfg)
    if counts:
        print(summary(settings.ann_file, counts))
    dataset = DATASETS.build(settings)
    load = next((t for t in dataset.pipeline.transforms if _loads_labels(t)), None)
    steps = settings.get('pipeline') or []
    readers = [step for step in steps if type_name(step) == 'LoadImageFromFile']
    turned = all(map(is_turned_by, readers))
    check = CheckFiles(labels=load is not None, turned=turned)
    head = cfg.model.get('decode_head') or {}
    head = head[-1] if isinstance(head, list) else head
    broken, unlabelled = [], 0
    for index in track_iter_progress(range(len(dataset))):
        info = dataset.get_data_info(index)
        try:
            check(info)
            if load is not None and info.get('seg_map_path'):
                labels = load(info)['gt_seg_map']
                ignored = head.get('ignore_index', 255)
                if head.get('num_classes'):
                    count = label_count(head['num_classes'], head.get('out_channels'))
                    check_labels(labels, count, ignored, info['seg_map_path'])
                unlabelled += bool(np.all(labels == ignored))
        except (DataError, OSError) as error:
            broken.append(str(error))
    print(
        f'\n{type(dataset).__name__}: {len(dataset)} images, {len(broken)} broken, '
        f'{unlabelled} whose every pixel is ignored'
    )
    if unlabelled and unlabelled == len(dataset):
        broken.append('every pixel of every label map is ignored: nothing to learn')
    return broken


def _loads_labels(transform: object) -> bool:
    name = type(transform).__name__
    return name == 'LoadAnnotations' and getattr(transform, 'with_seg', False)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = read_config(args.config, args.cfg_options, args.data_root)
    check_config(cfg, *args.splits)
    check_data(cfg, *args.splits)
    datasets = datasets_of(cfg, *args.splits)
    check_classes(cfg, datasets)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    broken = [line for settings in datasets for line in check_dataset(settings, cfg)]
    if broken:
        raise LaunchError(f'{len(broken)} broken:\n  ' + '\n  '.join(broken))
