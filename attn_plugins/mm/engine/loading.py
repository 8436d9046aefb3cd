"""Safe loading of mm checkpoints on torch >= 2.6, and clear errors where it fails.

Since torch 2.6 ``torch.load`` builds only what is allow-listed, which leaves out the
log histories that mmengine puts into every checkpoint: mmengine 0.10.7 can neither
resume nor test what it saved. Turning the check off would let a checkpoint run code.
Instead exactly the globals that mm checkpoints hold are allowed here.

Repairs mmengine 0.10; the list can go when mmengine allows them itself. That no config
in a checkpoint is run, and the one-line errors, are ours.
"""

import contextlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mm_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from .errors import BrokenCheckpointError

# The statistics that a history buffer pickles beside its numbers.
_STATISTICS = ('current', 'max', 'mean', 'min')


def _history_statistic(owner: type, name: str) -> Callable:
    """Stands in for ``getattr`` in checkpoints: serves four methods, nothing else.

    A history buffer pickles its methods as ``getattr(HistoryBuffer, 'mean')``. The real
    ``getattr`` would be a way to anything (``HistoryBuffer.mean.__globals__``), so the
    name is mapped to this function.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'getattr({owner!r}, {name!r}) is not something an mm checkpoint needs'
        )
    return getattr(HistoryBuffer, name)


def _safe_globals() -> list:
    """Lists what the message hub and the meta data of mm checkpoints are made of."""
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    # numpy 2 moved both; a file may come from either side.
    cores = ('numpy.core.multiarray', 'numpy._core.multiarray')
    return [
        HistoryBuffer,
        (_history_statistic, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in '?bBhHiIlLqQefd'),
        *((reconstruct, f'{core}._reconstruct') for core in cores),
        *((scalar, f'{core}.scalar') for core in cores),
    ]


def load_from_local(filename: str, map_location=None) -> dict:
    """Loads a local checkpoint, building nothing but tensors and mm's own records.

    mmengine logs the part of this function's name after ``load_from_``.

    Args:
        filename: Path of the file; ``~`` is expanded.
        map_location: As in ``torch.load``.

    Returns:
        What the file holds, usually a dict with 'state_dict' and 'meta'.

    Raises:
        FileNotFoundError: If there is no such file.
        pickle.UnpicklingError: If it holds anything that is not on the list.
        BrokenCheckpointError: If it is truncated or no checkpoint at all.
    """
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'there is no checkpoint {filename}')
    with _explained(filename):
        return _without_config(
            torch.load(path, map_location=map_location, weights_only=True)
        )


def _load_url(url: str, model_dir=None, map_location=None, progress=True) -> dict:
    """Does what mmengine's ``load_url`` does, with safe loading and a clear failure."""
    try:
        with _explained(url):
            return _without_config(
                torch.hub.load_state_dict_from_url(
                    url,
                    model_dir=model_dir,
                    map_location=map_location,
                    progress=progress,
                    weights_only=True,
                )
            )
    except (URLError, ConnectionError, TimeoutError) as error:
        folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
        name = os.path.basename(urlparse(url).path)
        raise FileNotFoundError(
            f'{url} cannot be downloaded ({getattr(error, "reason", error)}). '
            f'Copy {name} to {folder}, or name a local file in the config '
            '(--cfg-options model.pretrained=FILE, where the backbone has an init_cfg '
            'model.backbone.init_cfg.checkpoint=FILE), or start from random weights '
            '(model.pretrained=None, model.backbone.init_cfg=None).'
        ) from None


def _without_config(checkpoint: Any) -> Any:
    """Takes out the text that mmengine would run as Python when it resumes.

    Checkpoints of mm 2.x carry their config as ``meta['config']``. mmengine hands it to
    ``Config.fromstring``, to compare the number of GPUs. Its own have it in
    ``meta['cfg']``, which it does not run.
    """
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Says in one line why a checkpoint was refused or cannot be read."""
    try:
        yield
    except pickle.UnpicklingError as error:
        # torch wraps its reason in advice that would make the file run its code.
        reason = str(error).rpartition('WeightsUnpickler error:')[2].strip()
        reason = reason.partition('\n')[0]
        unsupported = re.search(r'GLOBAL (\S+)', str(error))
        if unsupported:
            reason = f'it asks for {unsupported[1]}, which is not on the safe list'
        raise pickle.UnpicklingError(
            f'{source} is refused: {reason}. Checkpoints may hold tensors, numbers, '
            'text and training logs; have its author save the state_dict alone.'
        ) from None
    except (EOFError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or 'the file ends too early').splitlines()[0]
        if type(error) is RuntimeError and 'PytorchStreamReader' not in reason:
            raise  # no GPU for a GPU's tensors, out of memory, ...: torch says it well
        raise BrokenCheckpointError(
            f'{source} cannot be read as a checkpoint, it is damaged or incomplete: '
            f'{reason}'
        ) from error


def install_safe_loading() -> None:
    """Makes mmengine load local files and downloads, for whatever use, as above.

    Its loaders for ``pavi://`` and ``s3://`` stay as they are, under torch's own check.
    A change of this process only; doing it twice changes nothing.
    """
    torch.serialization.add_safe_globals(_safe_globals())
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    # All of mmengine's download schemes (http://, torchvision://, open-mmlab://, ...)
    # end in this name.
    mm_checkpoint.load_url = _load_url


install_safe_loading()
