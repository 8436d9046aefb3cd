"""Puts ``attn_plugins.ops`` where mmcv looks for its compiled operators.

mmcv takes every operator by its name from the module ``mmcv._ext``, which mmcv-lite
lacks. One small file of that name is all it takes. Python prefers a compiled module to
it, so that a compiled mmcv which is installed later simply takes over.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

MARK = '# Written by `python -m attn_plugins ops link`; `ops unlink` takes it away.'
FILE = f'''{MARK}
"""mmcv's operators from attn_plugins.ops, in place of the compiled module."""

from functools import partial
from importlib import import_module


def _call(name, *args, **kwargs):
    # Not before an operator is called: mmcv looks for all of them when it is imported.
    module = import_module('attn_plugins.ops.extension')
    return getattr(module, name)(*args, **kwargs)


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)
    return partial(_call, name)
'''


class LinkError(RuntimeError):
    """mmcv is not there, or not in a state in which it can be linked."""


def link() -> str:
    """Writes the file, unless mmcv has compiled operators; says what was done."""
    folder = mmcv_folder()
    both = [name for name in mmcv_distributions() if name.endswith('-lite')]
    if both and len(mmcv_distributions()) > 1:
        names = ' and '.join(mmcv_distributions())
        raise LinkError(
            f'{names} are both installed and overwrite each other: '
            f'`python -m attn_plugins doctor` says which one to remove'
        )
    if compiled(folder):
        return f'nothing to link: {compiled(folder)} has the compiled operators'
    file = folder / '_ext.py'
    if file.exists() and not is_ours(file):
        raise LinkError(f'{file} is not from this command: look at it, and remove it')
    part = file.with_suffix('.part')
    part.write_text(FILE)
    part.replace(file)
    return f'wrote {file}: mmcv takes its operators from attn_plugins.ops'


def unlink() -> str:
    """Removes the file that ``link`` wrote; says what was done."""
    file = mmcv_folder() / '_ext.py'
    if not is_ours(file):
        return f'nothing to unlink: there is no {file} from this command'
    file.unlink()
    return f'removed {file}'


def status() -> str:
    """Says where mmcv's operators come from."""
    folder = mmcv_folder()
    if compiled(folder):
        return f'compiled: {compiled(folder)}'
    if is_ours(folder / '_ext.py'):
        return f'linked: {folder / "_ext.py"} takes them from attn_plugins.ops'
    return f'missing: {folder} has no operators; `python -m attn_plugins ops link`'


def mmcv_folder() -> Path:
    """Returns the folder of the installed mmcv, without importing it."""
    spec = find_spec('mmcv')
    if spec is None or spec.origin is None:
        raise LinkError('there is no mmcv here: pip install mmcv-lite==2.1.0')
    return Path(spec.origin).parent


def mmcv_distributions() -> list[str]:
    """Returns the installed distributions that bring a module ``mmcv``."""
    # None where pip was cut off.
    names = {(d.name or '').lower().replace('_', '-') for d in distributions()}
    return sorted(names & {'mmcv', 'mmcv-lite', 'onedl-mmcv', 'onedl-mmcv-lite'})


def compiled(folder: Path) -> Path | None:
    """Returns mmcv's compiled module, if there is one."""
    files = (folder / f'_ext{suffix}' for suffix in EXTENSION_SUFFIXES)
    return next(filter(Path.exists, files), None)


def is_ours(file: Path) -> bool:
    return file.is_file() and file.read_text().startswith(MARK)
