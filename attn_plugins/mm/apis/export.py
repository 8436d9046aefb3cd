"""Models of the frameworks as ONNX, TorchScript or ``torch.export`` files.

What is exported goes from a normalised image to numbers: logits of a segmentor at the
size of the image, logits of a classifier, feature maps of a detector. What the
frameworks do around that is Python. The file carries what a user needs to know for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ...registration import missing_modules
from ...version import __version__
from ..datasets.settings import type_name
from .launch import LaunchError
from .prediction import Predictor

SUFFIXES = {'onnx': '.onnx', 'torchscript': '.pt', 'exported': '.pt2'}
PARTS = ('model', 'features', 'backbone')
# Of the largest number of an output, or of 1 if that is larger.
TOLERANCE = 1e-4
FACTS = 'attn_plugins.json'  # in the two formats of torch, which are zip files

Run = Callable[[Tensor], list[Tensor]]


class Traced(nn.Module):
    """A part of a model, tensor in, tensors out.

    Args:
        predictor: The model.
        part: 'model' for logits, 'features' for the maps of backbone and neck,
            'backbone' for its own.

    Raises:
        LaunchError: If the model has no such part that is tensors only.
    """

    def __init__(self, predictor: Predictor, part: str) -> None:
        super().__init__()
        self.model = predictor.model
        self.host = predictor.host
        self.part = part
        if part != 'model':
            return
        if self.host == 'mmdet':
            raise LaunchError(
                'boxes and masks of a detector come from mmdet, not from a graph: '
                'export what they are made of with --part features'
            )
        if self.host == 'mmseg' and not isinstance(self.model.decode_head, nn.Module):
            raise LaunchError('the segmentor has no decode_head')
        if self.host == 'mmseg' and isinstance(self.model.decode_head, nn.ModuleList):
            raise LaunchError(
                'a cascade of decode heads cannot be exported as one: use '
                '--part features'
            )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.part == 'backbone':
            return _as_outputs(self.model.backbone(image))
        if self.part == 'features' or self.host == 'mmdet':
            return _as_outputs(self.model.extract_feat(image))
        if self.host == 'mmpretrain':
            return self.model(image, mode='tensor')
        head = self.model.decode_head
        logits = head(self.model.extract_feat(image))
        return F.interpolate(
            logits,
            size=image.shape[2:],
            mode='bilinear',
            align_corners=head.align_corners,
        )

    def output_names(self, count: int) -> list[str]:
        if self.part == 'model':
            return ['logits']
        return [f'features_{index}' for index in range(count)]


def _as_outputs(maps: Any) -> Any:
    maps = tuple(maps) if isinstance(maps, Sequence) else (maps,)
    return maps[0] if len(maps) == 1 else maps


def as_list(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Lists the outputs of a model that may have one or several."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def check_exportable(cfg: Config) -> None:
    """Refuses what no format has an operator for, before anything is built.

    Raises:
        LaunchError: If there are deformable convolutions.
    """
    found = list(_deformable(cfg.get('model') or {}, 'model'))
    if found:
        raise LaunchError(
            f'{found[0]} is a deformable convolution, an operator of mmcv that neither '
            'ONNX nor torch has: only models without it can be exported (its weights '
            'do not fit a plain convolution, so that the model has to be trained '
            'without)'
        )


def _deformable(config: Any, path: str) -> Iterator[str]:
    if isinstance(config, dict):
        if re.search(r'^DCN|Deform(able)?Conv', type_name(config)):
            yield path
        for key, value in config.items():
            yield from _deformable(value, f'{path}.{key}')
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _deformable(value, f'{path}[{index}]')


def check_file(path: str, kind: str) -> None:
    """Refuses a file name that does not say what is in it, and missing packages.

    Raises:
        LaunchError: In either case.
    """
    if Path(path).suffix != SUFFIXES[kind]:
        raise LaunchError(
            f'--out must end in {SUFFIXES[kind]} with --format {kind}, got {path}'
        )
    if kind == 'onnx':
        missing = missing_modules('onnx') + missing_modules('onnxscript')
        if missing:
            raise LaunchError(
                f'--format onnx needs {" and ".join(missing)}: '
                "pip install 'attn_plugins[export]'"
            )


def facts_of(predictor: Predictor, config: str) -> dict[str, str]:
    """Says how an image becomes the input of the network, and whose it is.

    Args:
        predictor: The model.
        config: Name of its config.

    Returns:
        Texts by name: channels and layout of the input, mean and standard deviation
        that it is normalised with, multiple that its size is padded to, classes.
    """
    preprocessor = predictor.model.data_preprocessor
    normalizes = getattr(preprocessor, '_enable_normalize', False)
    mean, std = (
        getattr(preprocessor, name).flatten().tolist() if normalizes else default
        for name, default in (('mean', [0.0]), ('std', [1.0]))
    )
    facts = dict(
        attn_plugins=__version__,
        config=config,
        task=predictor.task,
        trained=predictor.trained,
        layout='NCHW',
        channels='BGR' if predictor.feeds_bgr else 'RGB',
        mean=mean,
        std=std,
        pad_size_divisor=getattr(preprocessor, 'pad_size_divisor', None) or 1,
        classes=predictor.classes,
    )
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
    }


class Exported(NamedTuple):
    """What was written.

    Attributes:
        run: Runs the file; None where what runs it is not installed.
        outputs: Names of its outputs.
    """

    run: Run | None
    outputs: list[str]


def export(
    traced: Traced,
    kind: str,
    path: str,
    size: tuple[int, int],
    facts: dict[str, str],
    *,
    static: bool = False,
) -> Exported:
    """Writes a file, through one beside it that takes its place when it is whole.

    Args:
        traced: The model, or a part.
        kind: 'onnx', 'torchscript' or 'exported'.
        path: The file.
        size: Height and width of the images that it is traced with.
        facts: Texts to write into it.
        static: Whether it takes images of this size alone, rather than of any.

    Raises:
        LaunchError: If torch cannot export the model.
    """
    # Two images: torch.export takes a size of 1 for a constant.
    image = torch.zeros(1 if static else 2, 3, *size)
    part = Path(path).with_stem(f'.{Path(path).stem}.{os.getpid()}.part')
    try:
        with _quiet(), torch.no_grad():
            names = traced.output_names(len(as_list(traced(image))))
            _WRITERS[kind](traced, image, str(part), facts, names, static)
        os.replace(part, path)
    except LaunchError:
        raise
    except Exception as error:  # torch raises errors of any kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = '' if static else '; perhaps it can for images of one size, --static'
        raise LaunchError(f'torch cannot export this model: {reason}{hint}') from error
    finally:
        part.unlink(missing_ok=True)
    return Exported(_READERS[kind](path), names)


def _program(
    traced: Traced, image: Tensor, static: bool
) -> torch.export.ExportedProgram:
    sizes = None if static else (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    return torch.export.export(traced, (image,), dynamic_shapes=sizes, strict=False)


def _write_exported(traced, image, path, facts, names, static) -> None:
    program = _program(traced, image, static)
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})


def _write_torchscript(traced, image, path, facts, names, static) -> None:
    script = torch.jit.trace(traced, image, check_trace=False)
    torch.jit.save(script, path, _extra_files={FACTS: json.dumps(facts)})


def _write_onnx(traced, image, path, facts, names, static) -> None:
    program = torch.onnx.export(
        _program(traced, image, static),
        dynamo=True,
        verbose=False,
        input_names=['image'],
        output_names=names,
    )
    if not static:
        (value,) = program.model.graph.inputs
        for axis, name in {0: 'batch', 2: 'height', 3: 'width'}.items():
            value.shape[axis] = name
    program.model.metadata_props.update(facts)
    program.save(path)


def _read_exported(path: str) -> Run:
    module = torch.export.load(path).module()
    return lambda image: as_list(module(image))


def _read_torchscript(path: str) -> Run:
    module = torch.jit.load(path)
    return lambda image: as_list(module(image))


def _read_onnx(path: str) -> Run | None:
    if missing_modules('onnxruntime'):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def run(image: Tensor) -> list[Tensor]:
        outputs = session.run(None, {'image': image.numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run


_WRITERS = {
    'onnx': _write_onnx,
    'torchscript': _write_torchscript,
    'exported': _write_exported,
}
_READERS = {
    'onnx': _read_onnx,
    'torchscript': _read_torchscript,
    'exported': _read_exported,
}


@torch.no_grad()
def largest_difference(traced: Traced, run: Run, image: Tensor) -> float:
    """Compares a file with the model that it was made from.

    Args:
        traced: The model.
        run: Runs the file.
        image: ``(B, 3, H, W)``.

    Returns:
        The largest difference of all outputs, each relative to its largest number or
        to 1.

    Raises:
        LaunchError: If an output has another shape.
    """
    differences = []
    for mine, theirs in zip(as_list(traced(image)), run(image), strict=True):
        if mine.shape != theirs.shape:
            raise LaunchError(
                f'the file gives {tuple(theirs.shape)} for an image '
                f'{tuple(image.shape)}, and the model {tuple(mine.shape)}'
            )
        scale = max(1.0, mine.abs().max().item())
        differences.append((mine - theirs).abs().max().item() / scale)
    return max(differences)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what torch says to its own developers, and of checks of sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
