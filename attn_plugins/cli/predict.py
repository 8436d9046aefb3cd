"""Predicts an image, a folder of images or a video with any config and checkpoint.

python -m attn_plugins predict photo.jpg CONFIG CHECKPOINT --out predictions
python -m attn_plugins predict folder/ CONFIG CHECKPOINT --out predictions
python -m attn_plugins predict clip.mp4 CONFIG CHECKPOINT --out predictions

Painted pictures go to DIR/vis. Beside them stand detections.json (COCO's format),
masks/ (class indices) or classification.json, by the task of the config.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.utils import ProgressBar

from ..mm.apis.launch import (
    LaunchError,
    add_config_options,
    check_checkpoint,
    read_config,
)
from ..mm.apis.prediction import (
    Predictor,
    is_video,
    list_images,
    read_image,
    video_frames,
    writable_folder,
)
from ..mm.apis.results import ResultWriter
from ..visualization import UNTRAINED

Read = Callable[[], np.ndarray]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', help='an image, a folder of images, or a video')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='lowest score of a detection that is painted (all are written); 0.3',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...')
    add_config_options(parser)
    return parser.parse_args(argv)


def list_inputs(path: str) -> tuple[int | None, Iterator[tuple[str, str, Read]]]:
    """Lists what there is to predict.

    Returns:
        How many (None for a video that does not say), and of each: name of its output,
        of its file, and its reader.
    """
    if is_video(path):
        count, frames = video_frames(path)
        names = (f'{Path(path).stem}_{index:06d}' for index in itertools.count())
        return count, (
            (name, name, partial(_unchanged, frame))
            for name, frame in zip(names, frames, strict=False)
        )
    images = list_images(path)
    stems = [image.stem for image in images]
    # Two files may differ in their ending alone.
    names = [
        image.stem if stems.count(image.stem) == 1 else image.name.replace('.', '_')
        for image in images
    ]
    readers = (partial(read_image, image) for image in images)
    sources = [image.name for image in images]
    return len(images), zip(names, sources, readers, strict=True)


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image


def run(args: argparse.Namespace) -> list[str]:
    """Predicts all inputs, and returns a line for each that failed."""
    count, inputs = list_inputs(args.input)
    cfg = read_config(args.config, args.cfg_options)
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    writable_folder(args.out)
    if count == 1 and not is_video(args.input):
        # Nothing to gain from building the model for a broken image.
        name, source, read = next(inputs)
        inputs = iter([(name, source, partial(_unchanged, read()))])
    predictor = Predictor(cfg, args.checkpoint, args.device)
    if not predictor.trained:
        print(UNTRAINED)
    writer = ResultWriter(args.out, predictor, args.score_thr)
    failed, done = [], 0
    # Without a total it counts.
    bar = None if count == 1 else ProgressBar(count or 0, file=sys.stdout)
    try:
        for name, source, read in inputs:
            try:
                image = read()
                writer.add(name, image, predictor.predict(image), source)
                done += 1
            except Exception as error:  # the frameworks raise errors of any kind
                reason = str(error).strip() or type(error).__name__
                failed.append(f'{source}: {reason.splitlines()[0]}')
            if bar:
                bar.update()
    finally:  # an interrupted run leaves what it has done in order
        path = writer.close()
    print(f'\n{done} predicted, pictures in {writer.pictures}, results in {path}')
    return failed


def main(argv: Sequence[str] | None = None) -> None:
    failed = run(parse_args(argv))
    if failed:
        raise LaunchError(f'{len(failed)} failed:\n  ' + '\n  '.join(failed))
