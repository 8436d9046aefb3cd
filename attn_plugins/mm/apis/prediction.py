"""Predictions for any image, by the frameworks' inferencers and visualizers."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ...registration import missing_modules
from ...visualization import captioned, overlay, rendered
from ..datasets.image_files import check_whole
from ..datasets.settings import type_name
from ..engine.checkpoint_fit import fit_weights
from ..engine.errors import DataError
from .launch import LaunchError, datasets_of

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
VISUALIZER = {
    'mmdet': 'DetLocalVisualizer',
    'mmpretrain': 'UniversalVisualizer',
    'mmseg': 'SegLocalVisualizer',
}
SMALLEST = 320  # pixels of the longer side of a painted classification


def writable_folder(path: str | Path) -> Path:
    """Makes a folder and checks that files can be written there.

    Raises:
        LaunchError: If not.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise LaunchError(
            f'cannot write to the folder {path}: {error.strerror}'
        ) from None
    return path


def point_in_input(
    point: Sequence[float], sample: Any, input_size: Sequence[int]
) -> tuple[float, float]:
    """Finds where a pixel of an image lies in what the network got.

    Test pipelines resize, then cut out the centre (classification) or pad at the far
    sides.

    Args:
        point: x and y in pixels of the image.
        sample: The framework's data sample, which knows what was done.
        input_size: Height and width of what the network got.

    Returns:
        x and y, from 0 to 1.

    Raises:
        LaunchError: If the point is outside the image, or was cut off.
    """
    height, width = sample.ori_shape[:2]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise LaunchError(
            f'the point {x:g} {y:g} is not in the image, which has {width} x {height} '
            'pixels (x from the left, y from the top)'
        )
    shape = sample.img_shape[:2]
    scales = sample.get('scale_factor') or (shape[1] / width, shape[0] / height)
    found = []
    for place, size, scale, kept, whole in zip(
        (x, y), (width, height), scales, shape[::-1], input_size[::-1], strict=True
    ):
        cut = max(0.0, (size * scale - kept) / 2)
        # The centre of the pixel.
        found.append(((place + 0.5) * scale - cut) / whole)
    if not all(0 <= place <= 1 for place in found):
        raise LaunchError(
            f'the point {x:g} {y:g} is cut off by the test pipeline, which keeps the '
            'centre of the image'
        )
    return tuple(found)


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image, BGR ``(H, W, 3)``, 8-bit, upright.

    Raises:
        LaunchError: If there is none, or it cannot be decoded.
    """
    if not Path(path).is_file():
        raise LaunchError(f'there is no image {path}')
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise LaunchError(
            f'{path} cannot be read as an image: it is damaged or of another kind'
        )
    try:
        check_whole(path)  # OpenCV paints what is missing in grey
    except DataError as error:
        raise LaunchError(str(error)) from None
    return image


def is_video(path: str | Path) -> bool:
    """Tells whether a path is that of a video, by its ending."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def list_images(path: str | Path) -> list[Path]:
    """Lists the images of a folder, by name, or the one image that is named.

    Raises:
        LaunchError: If there is nothing, or no image in the folder.
    """
    path = Path(path)
    if not path.exists():
        raise LaunchError(f'there is no image, folder or video {path}')
    if not path.is_dir():
        return [path]
    images = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise LaunchError(
            f'the folder {path} has no images ({", ".join(IMAGE_SUFFIXES)})'
        )
    return images


def video_frames(path: str | Path) -> tuple[int | None, Iterator[np.ndarray]]:
    """Opens a video.

    Returns:
        How many frames it says it has, None if it does not say, and those that can be
        read, BGR.

    Raises:
        LaunchError: If there is none, or none of its frames can be read.
    """
    if not Path(path).is_file():
        raise LaunchError(f'there is no image, folder or video {path}')
    video = cv2.VideoCapture(str(path))
    found, first = video.read()
    if not found:
        raise LaunchError(
            f'{path} cannot be read as a video: it is damaged or of another kind'
        )

    def frames() -> Iterator[np.ndarray]:
        found, frame = True, first
        while found:
            yield frame
            found, frame = video.read()
        video.release()

    # Streams say 0, or something negative.
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    return count if count > 0 else None, frames()


class Predictor:
    """A model of any framework with its test pipeline, for images of any size.

    Args:
        cfg: Config of a detector, segmentor or classifier.
        checkpoint: Its weights; None for random ones.
        device: As in torch; None for a GPU where there is one.

    Raises:
        LaunchError: If the config is of none of the frameworks, or the checkpoint does
            not fit it.

    Attributes:
        task: 'detection', 'segmentation' or 'classification'.
        classes: Names of the classes, by index.
        palette: RGB colours of the classes, by index.
        trained: Whether a checkpoint was loaded.
        takes_rgb: Whether the test pipeline begins with an array, RGB as those of CIFAR
            are; files are read as BGR.
        model: The model, in eval mode.
    """

    def __init__(
        self, cfg: Config, checkpoint: str | None = None, device: str | None = None
    ) -> None:
        host = cfg.get('default_scope')
        if host not in VISUALIZER:
            raise LaunchError(
                f'default_scope must be one of {", ".join(VISUALIZER)} in the config, '
                f'got {host!r}'
            )
        missing = missing_modules(host)
        if missing:
            raise LaunchError(
                f'the config is of {host}, and {", ".join(missing)} cannot be found: '
                '`python -m attn_plugins doctor` says how to install it'
            )
        if not cfg.get('test_dataloader'):
            raise LaunchError('the config has no test_dataloader, hence no pipeline')
        self.takes_rgb = not _begins_with_a_file(cfg.test_dataloader.dataset.pipeline)
        cfg = cfg.copy()
        # No back end: it would write files, or need TensorBoard.
        cfg.visualizer = dict(type=VISUALIZER[host])
        self.host = host
        with _quiet():
            self.inferencer = _build(host, cfg, device)
        self.model: nn.Module = self.inferencer.model
        meta = dataset_meta(cfg)
        if checkpoint is not None:
            with _quiet():
                meta |= load_weights(self.model, checkpoint)
        self.trained = checkpoint is not None
        self._set_classes(meta)

    @property
    def task(self) -> str:
        return {
            'mmdet': 'detection',
            'mmpretrain': 'classification',
            'mmseg': 'segmentation',
        }[self.host]

    @property
    def feeds_bgr(self) -> bool:
        """Whether the network gets BGR, after what the preprocessor does."""
        # Each framework has its own name for it.
        names = ('to_rgb', 'channel_conversion', '_channel_conversion')
        preprocessor = self.model.data_preprocessor
        swapped = any(getattr(preprocessor, name, False) for name in names)
        return swapped == self.takes_rgb

    def predict(self, image: np.ndarray) -> Any:
        """Runs the test pipeline and the model.

        Args:
            image: BGR ``(H, W, 3)``, 8-bit.

        Returns:
            The framework's data sample, on the CPU.
        """
        if self.takes_rgb:
            image = np.ascontiguousarray(image[..., ::-1])
        (batch,) = self.inferencer.preprocess([image], batch_size=1)
        if self.host == 'mmdet':  # which hands the images on as well
            batch = batch[1]
        (sample,) = self.inferencer.forward(batch)
        return sample.cpu()

    def paint(self, image: np.ndarray, sample: Any, score: float = 0.3) -> np.ndarray:
        """Draws a prediction over its image: boxes and masks as the framework does.

        Class maps and classes are drawn here, as the frameworks' names run out of the
        picture. A classified image gets its five best classes below it, and is enlarged
        if it is small.

        Args:
            image: BGR ``(H, W, 3)``, 8-bit.
            sample: What :meth:`predict` returned.
            score: Lowest score of a detection that is drawn.

        Returns:
            RGB ``(H, W, 3)``, 8-bit; of another size, unless boxes are drawn.
        """
        rgb = np.ascontiguousarray(image[..., ::-1])
        if self.host == 'mmpretrain':
            lines = [
                f'{100 * score:.1f} %  {self.classes[index]}'
                for index, score in best_classes(sample)
            ]
            return captioned(_enlarged(rgb), lines)
        if self.host == 'mmseg':
            label = sample.pred_sem_seg.data[0].numpy()
            return rendered(overlay(rgb, label, self.classes, self.palette))
        self.inferencer.visualizer.add_datasample(
            'prediction', rgb, sample, draw_gt=False, pred_score_thr=score
        )
        return self.inferencer.visualizer.get_image()

    def attend_to_whole_images(self) -> bool:
        """Lets a segmentor take images whole, as maps over crops would be in pieces.

        Returns:
            Whether it took crops before.
        """
        test_cfg = getattr(self.model, 'test_cfg', None)
        if self.host != 'mmseg' or not test_cfg or test_cfg.get('mode') != 'slide':
            return False
        test_cfg.mode = 'whole'
        return True

    def shown(self, pixels: Tensor) -> np.ndarray:
        """Turns what the network got back into an RGB picture.

        Args:
            pixels: ``(3, H, W)``, normalised.

        Returns:
            RGB ``(H, W, 3)``, 8-bit.
        """
        preprocessor = self.model.data_preprocessor
        pixels = pixels.float()
        if getattr(preprocessor, '_enable_normalize', False):
            mean, std = (
                t.view(-1, 1, 1) for t in (preprocessor.mean, preprocessor.std)
            )
            pixels = pixels * std + mean
        if self.feeds_bgr:
            pixels = pixels.flip(0)
        pixels = pixels.round().clamp(0, 255).permute(1, 2, 0)
        return pixels.to(torch.uint8).cpu().numpy()

    def _set_classes(self, meta: dict) -> None:
        classes = list(meta.get('classes') or ())
        classes += [
            f'class {index}' for index in range(len(classes), _class_count(self.model))
        ]
        palette = meta.get('palette')
        if not isinstance(palette, Sequence) or len(palette) < len(classes):
            # Any that stay the same: the same class, the same colour.
            palette = np.random.default_rng(0).integers(40, 256, (len(classes), 3))
        self.classes = tuple(map(str, classes))
        self.palette = [tuple(map(int, colour)) for colour in palette]
        if self.host == 'mmdet':  # the others' predictions are drawn here
            self.inferencer.visualizer.dataset_meta = dict(
                classes=self.classes, palette=self.palette
            )


def best_classes(sample: Any) -> list[tuple[int, float]]:
    """Lists the five best classes of a classified image, best first, with scores."""
    scores = sample.pred_score
    best = scores.topk(min(5, len(scores)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _enlarged(image: np.ndarray) -> np.ndarray:
    scale = max(1.0, SMALLEST / max(image.shape[:2]))
    return mmcv.imrescale(image, scale, interpolation='bicubic')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what inferencers say while they are built.

    It is about weights and class names, which are set afterwards, and about registries.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _build(host: str, cfg: Config, device: str | None) -> Any:
    init_default_scope(host)
    if host == 'mmdet':
        from mmdet.apis import DetInferencer

        return DetInferencer(cfg, device=device, show_progress=False)
    if host == 'mmseg':
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(cfg, device=device)
    from mmpretrain import ImageClassificationInferencer

    device = device or get_device()
    return ImageClassificationInferencer(cfg, pretrained=False, device=device)


def _begins_with_a_file(pipeline: Sequence[dict]) -> bool:
    return bool(pipeline) and type_name(pipeline[0]).startswith('Load')


def _class_count(model: nn.Module) -> int:
    # Not of the preprocessor, whose is a default; a region proposal head has one class.
    parts = (part for name, part in model.named_children() if 'preproc' not in name)
    counts = (getattr(m, 'num_classes', 0) for part in parts for m in part.modules())
    return max((count for count in counts if isinstance(count, int)), default=0)


def dataset_meta(cfg: Config) -> dict:
    """Reads the names and colours of the classes from the test data set of a config."""
    dataset = datasets_of(cfg, 'test')[0]
    init_default_scope(cfg.default_scope)
    kind = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    given = dict(dataset.get('metainfo') or {})
    if dataset.get('classes'):  # mmpretrain
        given['classes'] = dataset.classes
    meta = {**getattr(kind, 'METAINFO', {}), **given}
    # A name may be that of a file with one class a line.
    return {
        key.lower(): value for key, value in BaseDataset._load_metainfo(meta).items()
    }


def load_weights(model: nn.Module, path: str) -> dict:
    """Loads a checkpoint, all of it or nothing.

    Args:
        model: The model.
        path: Path or address of the checkpoint.

    Returns:
        What it says about its data set: 'classes' and 'palette', if anything.

    Raises:
        FileNotFoundError: If there is none.
        pickle.UnpicklingError: If it is refused, see ``checkpoints.loading``.
        BrokenCheckpointError: If it is damaged.
        LaunchError: If it does not fit the model; it names the first five differing
            keys.
    """
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    fit_weights(model, checkpoint, path)
    meta = checkpoint.get('meta') or {}
    about = meta.get('dataset_meta') or {'classes': meta.get('CLASSES')}
    return {key.lower(): value for key, value in about.items() if value is not None}
