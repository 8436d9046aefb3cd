"""Lets torchvision's Python part import where its compiled operators do not load.

``import torchvision`` describes the shapes of the operators ``nms`` and ``qnms`` to
torch, which fails if no compiled library has declared them: so where torch is a CPU
build and torchvision's only wheel is the one for CUDA. mmpretrain needs the Python part
alone.
"""

import sys
from typing import NoReturn

import torch

SIGNATURE = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
OPERATORS = ('nms', 'qnms')

# torch forgets what was declared through a library that is garbage.
_library: torch.library.Library | None = None


def declare_schemas() -> None:
    """Declares torchvision's operators if its import fails for want of them.

    Nothing happens where torchvision works, is not there, or fails for another reason.
    The attempt decides, since torchvision has its own ways to find its library, which
    must be the one to declare the operators if it loads: a namespace is taken once.
    No fault of torchvision's leaves this: who imports it next gets to see it.
    """
    global _library
    if 'torchvision' not in sys.modules:
        _forget_torchvision()  # what an import that failed before has left
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            return
    except Exception:  # a release for another torch raises AttributeError, ...
        return
    else:
        return
    _forget_torchvision()
    _library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in OPERATORS:
        _library.define(f'{name}{SIGNATURE}')
        for device in ('CPU', 'CUDA'):
            _library.impl(name, _refuse, device)


def _forget_torchvision() -> None:
    """Drops modules of a failed import, so that the next one starts anew.

    Python drops the package and keeps its submodules, but does not make them attributes
    of the package that is imported next; ``import torchvision.extension`` in there, as
    releases to 0.27 have it, then finds no ``torchvision.extension``.
    """
    for name in [n for n in sys.modules if n.partition('.')[0] == 'torchvision']:
        del sys.modules[name]


def _refuse(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> NoReturn:
    raise NotImplementedError(
        "torchvision's operators nms and qnms are not compiled here: its library does "
        f'not load with torch {torch.__version__}. Use mmcv.ops.nms, or see '
        '`python -m attn_plugins.doctor`'
    )
