"""Training processes that a soak test watches, and the two models that it trains."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import runpy
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path

import cv2
import numpy as np
from make_demo_data import make_demo_data

ROOT = Path(__file__).resolve().parents[2]
MODELS = ('eanet', 'lesa')
SERVER = multiprocessing.get_context('forkserver')
# Iter(train) [ 12/200] or Epoch(train)  [3][ 4/8]
PROGRESS = re.compile(r'\(train\) +(?:\[ *(\d+)\])?\[ *(\d+)/(\d+)\]')
SMALL_EANET = (
    'train_dataloader.dataset.pipeline.2.scale=(80,60)',
    'val_dataloader.dataset.pipeline.1.scale=(80,60)',
    'model.data_preprocessor.size=(60,80)',
    'model.backbone.stem_channels=16',
    'model.backbone.base_channels=16',
    'model.decode_head.in_channels=128',
    'model.decode_head.attn_channels=64',
    'model.auxiliary_head.in_channels=64',
)
LESA = """
_base_ = {base!r}
metainfo = dict(classes=('ellipse', 'box'))
data = dict(data_root={data!r}, ann_file='shapes.json', data_prefix=dict(img=''))
resize = dict(type='Resize', scale=(96, 96), keep_ratio=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
names = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
val_pipeline = [*train_pipeline[:3], dict(type='PackDetInputs', meta_keys=names)]
dataset = dict(metainfo=metainfo, **data)
train_dataloader = dict(dataset=dict(dataset, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(dataset, indices=4, pipeline=val_pipeline),
)
val_evaluator = dict(ann_file={data!r} + '/shapes.json')
width = 16
small = dict(in_channels=width)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(
        stem_channels=width, base_channels=width, rel_pos_input_size=96,
        frozen_stages=-1, norm_eval=False, init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=width),
    rpn_head=dict(small, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        mask_roi_extractor=dict(out_channels=width),
        bbox_head=dict(small, fc_out_channels=32, num_classes=2),
        mask_head=dict(small, num_convs=1, conv_out_channels=width, num_classes=2),
    ),
)
train_cfg = dict(type='ResumableEpochBasedTrainLoop', val_interval=5)
saving = dict(type='ResumableCheckpointHook', interval=1)
default_hooks = dict(checkpoint=saving)
optim_wrapper = dict(clip_grad=dict(max_norm=10))
randomness = dict(seed=0)
"""  # fmt: skip


class Job:
    """What is trained, on data drawn for it.

    Args:
        model: 'eanet' (iterations) or 'lesa' (epochs, of 4 iterations).
        folder: Where its data and config go.
        length: Iterations, or epochs.
        interval: Of its checkpoints.
        small: Whether EANet is narrow and sees small images.
    """

    def __init__(
        self, model: str, folder: Path, length: int, interval: int, small: bool
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / 'data'
        host = 'mmseg' if model == 'eanet' else 'mmdet'
        # Training forks off a process that has imported everything and done nothing.
        parts = ('datasets', 'engine', 'evaluation', 'models', 'visualization')
        SERVER.set_forkserver_preload(
            ['attn_plugins', *(f'{host}.{part}' for part in parts)]
        )
        self.tool = Path(find_spec(host).origin).parent / '.mim/tools/train.py'
        self.options = [
            f'train_cfg.max_{"iters" if model == "eanet" else "epochs"}={length}',
            f'default_hooks.checkpoint.interval={interval}',
            'default_hooks.checkpoint.max_keep_ckpts=3',
            'default_hooks.logger.interval=1',
            'train_dataloader.persistent_workers=False',
        ]
        self.stock = ['default_hooks.checkpoint.type=CheckpointHook']
        if model == 'eanet':
            self.config = ROOT / 'configs/eanet_r18_demo.py'
            self.last, self.interval = length, interval
            self.stock.append('train_cfg.type=IterBasedTrainLoop')
            self.options.append('train_dataloader.batch_size=2')
            if small:
                make_demo_data(data, 12, 2, (60, 80))
                self.options += SMALL_EANET
            else:
                make_demo_data(data)
            self.options += [
                f'{split}_dataloader.dataset.data_root={data}'
                for split in ('train', 'val')
            ]
        else:
            self.config = folder / 'mask-rcnn_lesa-r50_small.py'
            self.last, self.interval = 4 * length, 4 * interval
            self.stock.append('train_cfg.type=EpochBasedTrainLoop')
            draw_shapes(data, count=8)
            base = str(ROOT / 'configs/mask-rcnn_lesa-r50_coco.py')
            self.config.write_text(LESA.format(base=base, data=str(data)))

    def start(
        self,
        work_dir: Path,
        *options: str,
        resume: bool = False,
        file_limit: int = resource.RLIM_INFINITY,
    ) -> Training:
        """Starts training; files may grow up to a limit of bytes."""
        command = [self.tool, self.config, '--work-dir', work_dir]
        command += ['--resume'] if resume else []
        command += ['--cfg-options', *self.options, *options]
        return Training(list(map(str, command)), file_limit)


class Training:
    """A training process, watched line by line."""

    def __init__(self, command: list[str], file_limit: int) -> None:
        self.iteration = 0
        self.times: dict[str, float] = {}
        self.lines: list[str] = []
        self._start = time.monotonic()
        descriptor, self._log = tempfile.mkstemp(prefix='soak-', suffix='.log')
        os.close(descriptor)
        self.process = SERVER.Process(
            target=_tool, args=(command, self._log, file_limit)
        )
        self.process.start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with open(self._log) as log:
            line = ''
            while True:
                alive = self.alive
                line += log.readline()
                if line.endswith('\n'):
                    self._take(line)
                    line = ''
                elif alive:
                    time.sleep(0.001)
                else:
                    return

    def _take(self, line: str) -> None:
        self.lines.append(line)
        if 'resumed epoch' in line:
            self.times['resumed'] = time.monotonic() - self._start
        found = PROGRESS.search(line)
        if found:
            epoch, step, steps = (int(part or 1) for part in found.groups())
            self.iteration = (epoch - 1) * steps + step
            self.times.setdefault('first', time.monotonic() - self._start)

    @property
    def alive(self) -> bool:
        return wait([self.process.sentinel], timeout=0) == []

    def wait(self) -> int:
        """Waits for its end, and returns the exit status."""
        self.process.join()
        self._reader.join()
        Path(self._log).unlink(missing_ok=True)
        return self.process.exitcode

    def wait_for(self, iteration: int) -> None:
        """Waits until it has done an iteration, or has ended."""
        while self.alive and self.iteration < iteration:
            time.sleep(0.002)

    def kill(self) -> None:
        self.process.kill()  # SIGKILL
        self.wait()

    def tail(self) -> str:
        return ''.join(self.lines[-30:])


def _tool(command: list[str], log: str, file_limit: int) -> None:
    """Is a process that runs a script, as from a shell."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = command
    runpy.run_path(command[0], run_name='__main__')


class Results:
    """A file of results, a line of JSON each, complete after every line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.path = path

    def add(self, **row) -> None:
        line = json.dumps(row)
        print(line, flush=True)
        with self.path.open('a') as file:
            file.write(line + '\n')


def draw_shapes(folder: Path, count: int) -> None:
    """Draws ellipses and boxes on noise, annotated like COCO."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(count):
        picture = rng.integers(0, 120, (96, 96, 3)).astype(np.uint8)
        images.append(dict(id=index, file_name=f'{index}.png', height=96, width=96))
        for kind in (1, 2, rng.integers(1, 3)):
            (x, y), (rx, ry) = rng.integers(30, 66, 2), rng.integers(8, 25, 2)
            step = 30 if kind == 1 else 90
            outline = cv2.ellipse2Poly(
                (int(x), int(y)), (int(rx), int(ry)), 45 * (kind == 2), 0, 359, step
            )
            cv2.fillPoly(picture, [outline], rng.integers(120, 255, 3).tolist())
            box = cv2.boundingRect(outline)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=int(kind),
                    segmentation=[outline.ravel().tolist()],
                    bbox=list(box),
                    area=float(cv2.contourArea(outline)),
                    iscrowd=0,
                )
            )
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    categories = [dict(id=i, name=n) for i, n in ((1, 'ellipse'), (2, 'box'))]
    text = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'shapes.json').write_text(json.dumps(text))
