"""Decides which hosts (mmseg, mmdet, ...) are usable and registers with them.

This module knows names only. What is registered lives in ``attn_plugins.mm``, which is
imported only if its host is found together with everything that host needs.
"""

import importlib
import warnings
from importlib.util import find_spec

from .torchvision_schemas import declare_schemas

# What each host imports undeclared (ftfy, regex, torchvision), what pip cannot provide
# (compiled mmcv ops: "mmcv-lite", or mmcv from a source tree, has no `mmcv._ext`), and
# what `pip install --no-deps` leaves out.
HOST_REQUIREMENTS = {
    'mmseg': ('mmengine', 'mmcv', 'mmcv._ext', 'ftfy', 'regex'),
    'mmdet': ('mmengine', 'mmcv', 'mmcv._ext', 'pycocotools', 'shapely', 'scipy'),
    'mmpretrain': (
        'mmengine',
        'mmcv',
        'torchvision',
        'einops',
        'importlib_metadata',
        'mat4py',
        'modelindex',
    ),
}

# In the order of registration: the root registry of mmengine first, then each host's.
_COMPONENTS = {
    'mmengine': 'attn_plugins.mm.layers',
    'mmdet': 'attn_plugins.mm.detection',
    'mmseg': 'attn_plugins.mm.segmentation',
    'mmpretrain': 'attn_plugins.mm.classification',
}

_registered: dict[str, tuple[str, ...]] = {}
_errors: dict[str, str] = {}


def missing_modules(host: str) -> tuple[str, ...]:
    """Returns the import names that ``host`` needs and that are not installed."""

    def is_missing(name: str) -> bool:
        parent = name.rpartition('.')[0]
        # find_spec('a.b') imports a, and raises if a is not there.
        return bool(parent and is_missing(parent)) or find_spec(name) is None

    names = (host, *HOST_REQUIREMENTS.get(host, ()))
    return tuple(name for name in names if is_missing(name))


def register_all() -> None:
    """Registers the components that the installed hosts can use; safe to call again.

    A host that is installed but cannot be imported (a version it refuses, say) is
    reported by a warning and skipped, so that it does not take the other hosts with it.
    """
    # Before any host: mmseg imports mmdet, which imports mmpretrain where it is there.
    if find_spec('mmpretrain'):
        declare_schemas()
    for host, module in _COMPONENTS.items():
        if host in _registered or host in _errors:
            continue
        try:
            if not missing_modules(host):
                _registered[host] = tuple(importlib.import_module(module).REGISTERED)
        except Exception as error:  # mm packages raise AssertionError, KeyError, ...
            _errors[host] = f'{type(error).__name__}: {error}'
            warnings.warn(
                f'attn_plugins registers nothing in {host}, which is installed but '
                f'cannot be imported ({_errors[host]}). '
                'Run `python -m attn_plugins.doctor` to see how to mend it.',
                stacklevel=2,
            )


def registered_components() -> dict[str, tuple[str, ...]]:
    """Returns the registered names by the host whose registry holds them."""
    return dict(_registered)


def host_errors() -> dict[str, str]:
    """Returns the error text of each host that is installed but fails to import."""
    return dict(_errors)
