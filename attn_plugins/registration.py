"""Registers our components with a framework (mmengine, mmseg, ...) on its import.

This module knows names only. What is registered lives in ``attn_plugins.mm``, whose
modules are imported right after the part of a framework that they extend.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# What each framework imports undeclared (ftfy, regex, torchvision), mmcv's operators,
# which mmcv-lite lacks before `python -m attn_plugins ops link`, and what
# `pip install --no-deps` leaves out.
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

# Our modules by the module that they are imported after. A framework's registry imports
# `X.models` before it looks up a model, and looks in mmengine's after its own. Hooks
# and loops come with mmengine.runner, as mmengine's own do.
_FOLLOWERS = {
    'mmengine.config': ('attn_plugins.mm.engine.base_configs',),
    'mmengine.registry': ('attn_plugins.mm.models.layers',),
    'mmengine.runner': (
        'attn_plugins.mm.engine.loading',
        'attn_plugins.mm.datasets.batch_hook',
        'attn_plugins.mm.engine.checkpoint_fit',
        'attn_plugins.mm.engine.checkpoint_hook',
        'attn_plugins.mm.engine.loops',
        'attn_plugins.mm.engine.term_weight_hook',
    ),
    'mmdet.models': ('attn_plugins.mm.models.detection',),
    'mmseg.models': ('attn_plugins.mm.models.segmentation',),
    'mmpretrain.models': ('attn_plugins.mm.models.classification',),
}

_errors: dict[str, str] = {}


class _Finder(MetaPathFinder):
    """Imports our modules after each module in the table, whoever imports that one.

    It stands first and finds nothing itself: it returns what the finders behind it
    find, with a loader around theirs.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _FOLLOWERS:
            return None
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in behind)
        spec = next(filter(None, found), None)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Gives the module its own loader back before it runs, and its own errors."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # for who inspects without importing

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _follow(module.__name__)


_finder = _Finder()


def follow_hosts() -> None:
    """Registers with the frameworks that are imported, and those that will be.

    Safe to call again. A framework that is being imported right now, because its own
    files import this package, counts as imported: ours need only its submodules, which
    can be imported meanwhile.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for module in _FOLLOWERS:
        if sys.modules.get(module):
            _follow(module)


def _follow(module: str) -> None:
    for ours in _FOLLOWERS[module]:
        try:
            importlib.import_module(ours)
        except Exception as error:  # mm packages raise AssertionError, KeyError, ...
            _report(module, error)


def _report(module: str, error: Exception) -> None:
    host = module.partition('.')[0]
    if host not in _errors:
        _errors[host] = f'{type(error).__name__}: {error}'
        warnings.warn(
            f'attn_plugins cannot register all it has for {host} ({_errors[host]}). '
            'Run `python -m attn_plugins doctor` to see how to fix it.',
            stacklevel=3,
        )


def missing_modules(host: str) -> tuple[str, ...]:
    """Returns the import names that ``host`` needs and that are not installed."""

    def is_missing(name: str) -> bool:
        parent = name.rpartition('.')[0]
        # find_spec('a.b') imports a, and raises if a is not there.
        return bool(parent and is_missing(parent)) or find_spec(name) is None

    names = (host, *HOST_REQUIREMENTS.get(host, ()))
    return tuple(name for name in names if is_missing(name))


def register_all() -> None:
    """Imports the installed frameworks, which registers all that they can use.

    One that is installed but cannot be imported (a version it refuses, say) is reported
    by a warning and skipped, so that the others work. Safe to call again.
    """
    for module in _FOLLOWERS:
        host = module.partition('.')[0]
        try:
            if host not in _errors and not missing_modules(host):
                importlib.import_module(module)
        except Exception as error:  # see above
            _report(module, error)


def registered_components() -> dict[str, tuple[str, ...]]:
    """Returns the registered names by the framework whose registry holds them."""
    found: dict[str, tuple[str, ...]] = {}
    for module, followers in _FOLLOWERS.items():
        host = module.partition('.')[0]
        for ours in followers:
            names = getattr(sys.modules.get(ours), 'REGISTERED', ())
            if names:
                found[host] = (*found.get(host, ()), *names)
    return found


def host_errors() -> dict[str, str]:
    """Returns the error text of each installed framework that cannot be imported.

    Also where what fails is our part for it. What a framework raised in somebody else's
    import is not known here.
    """
    return dict(_errors)
