"""Files of predictions: painted pictures, and what programs read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ...visualization import UNTRAINED, captioned
from .launch import LaunchError
from .prediction import Predictor, best_classes, writable_folder


class ResultWriter:
    """Writes predictions of one model to a folder.

    ``vis/NAME.png`` is the painted picture. Beside it stands, by task,

    * ``detections.json``: COCO's format of a data set, with scores; masks run-length
      encoded. A category id is the class index plus 1; COCO's own ids have gaps.
    * ``masks/NAME.png`` with the class index of every pixel (of 8 bits with a palette,
      of 16 from 256 classes on), and ``classes.json``.
    * ``classification.json``: of every image, classes with scores, best first.

    Each JSON file says under ``trained`` whether a checkpoint was loaded. If not, a
    line below each picture says so, too.

    Args:
        folder: Where to write; it is made.
        predictor: The model.
        score: Lowest score of a detection that is painted; all are written.

    Raises:
        LaunchError: If the folder cannot be written to.
    """

    def __init__(
        self, folder: str | Path, predictor: Predictor, score: float = 0.3
    ) -> None:
        self.folder = writable_folder(folder)
        self.predictor = predictor
        self.score = score
        self.pictures = writable_folder(self.folder / 'vis')
        self.masks = self.folder / 'masks'
        if predictor.task == 'segmentation':
            writable_folder(self.masks)
        self._images: list[dict] = []
        self._entries: list[dict] = []

    def add(
        self, name: str, image: np.ndarray, sample: Any, source: str | None = None
    ) -> None:
        """Writes one prediction.

        Args:
            name: Names its files, without an ending.
            image: BGR ``(H, W, 3)``, 8-bit.
            sample: What the predictor returned for it.
            source: File name of the image, for the results; None for ``name``.

        Raises:
            LaunchError: If a file cannot be written, or the sample is of a task that
                there is no file for.
        """
        painted = self.predictor.paint(image, sample, self.score)
        if not self.predictor.trained:
            painted = captioned(painted, warning=UNTRAINED)
        path = self.pictures / f'{name}.png'
        if not cv2.imwrite(str(path), np.ascontiguousarray(painted[..., ::-1])):
            raise LaunchError(f'cannot write {path}')
        height, width = image.shape[:2]
        source = source or name
        self._images.append(
            dict(id=len(self._images) + 1, file_name=source, width=width, height=height)
        )
        if self.predictor.task == 'detection':
            self._add_detections(sample)
        elif self.predictor.task == 'segmentation':
            self._add_mask(name, sample)
        else:
            self._add_classes(source, sample)

    def close(self) -> Path:
        """Writes what is about all images together.

        Returns:
            Its file.
        """
        classes = self.predictor.classes
        if self.predictor.task == 'detection':
            categories = [
                dict(id=index, name=name) for index, name in enumerate(classes, 1)
            ]
            content: dict = dict(
                images=self._images, categories=categories, annotations=self._entries
            )
            path = self.folder / 'detections.json'
        elif self.predictor.task == 'segmentation':
            colours = zip(classes, self.predictor.palette, strict=False)
            content = dict(
                classes=[
                    dict(index=index, name=name, colour=colour)
                    for index, (name, colour) in enumerate(colours)
                ]
            )
            path = self.folder / 'classes.json'
        else:
            content = dict(images=self._entries)
            path = self.folder / 'classification.json'
        content = dict(trained=self.predictor.trained, **content)
        path.write_text(json.dumps(content, indent=1) + '\n')
        return path

    def _add_detections(self, sample: Any) -> None:
        if 'pred_instances' not in sample:
            raise LaunchError(
                'the model predicts no instances: panoptic segmentation has no file '
                'here'
            )
        found = sample.pred_instances.numpy()
        masks: Sequence = ()
        if 'masks' in found:
            from mmdet.structures.mask import encode_mask_results

            masks = encode_mask_results(found.masks)
        for index, (label, score) in enumerate(
            zip(found.labels, found.scores, strict=True)
        ):
            left, top, right, bottom = (float(side) for side in found.bboxes[index])
            entry = dict(
                id=len(self._entries) + 1,
                image_id=len(self._images),
                category_id=int(label) + 1,
                bbox=[left, top, right - left, bottom - top],
                area=(right - left) * (bottom - top),
                iscrowd=0,
                score=float(score),
            )
            if len(masks):
                mask = masks[index]
                entry['segmentation'] = dict(
                    size=list(map(int, mask['size'])), counts=mask['counts'].decode()
                )
                entry['area'] = float(np.count_nonzero(found.masks[index]))
            self._entries.append(entry)

    def _add_mask(self, name: str, sample: Any) -> None:
        labels = sample.pred_sem_seg.data[0].numpy()
        if len(self.predictor.classes) > 256:
            picture = Image.fromarray(labels.astype(np.uint16))
        else:
            picture = Image.fromarray(labels.astype(np.uint8))
            picture.putpalette(np.uint8(self.predictor.palette).tobytes())
        picture.save(self.masks / f'{name}.png')

    def _add_classes(self, source: str, sample: Any) -> None:
        ranked = [
            dict(label=index, name=self.predictor.classes[index], score=score)
            for index, score in best_classes(sample)
        ]
        self._entries.append(dict(file_name=source, best=ranked))
