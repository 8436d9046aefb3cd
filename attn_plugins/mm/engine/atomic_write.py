"""Files that are there whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from .errors import WriteError

BACKEND = 'attn_plugins_atomic'
TEMPORARY = '.{}.attn_plugins.tmp'  # no one else's, whatever the checkpoint is called


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes a file under a temporary name, waits for the disk, and renames it.

    A process or machine that dies meanwhile leaves the old file as it was, and perhaps
    a temporary one, for which see ``remove_leftovers``.

    Raises:
        WriteError: If the disk is full, say. The temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(TEMPORARY.format(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise WriteError(
                f'{path} cannot be written ({error.strerror or error}). All that was '
                'saved before is still there: make room and resume.'
            ) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Brings a new name to the disk, too.

    Some file systems (CIFS, FUSE) cannot do that for a folder; the file is whole there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Removes the temporary files of writers that were killed."""
    for path in Path(folder).glob(TEMPORARY.format('*')):
        path.unlink(missing_ok=True)


class AtomicBackend(LocalBackend):
    """mmengine's local files, written as above: ``backend_args=dict(backend=BACKEND)``.

    Removals can be held back until what replaces the files has been written.
    """

    def __init__(self) -> None:
        self._held: list[str | Path] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomically(filepath, obj)

    def remove(self, filepath: str | Path) -> None:
        if self._held is None:
            super().remove(filepath)
        else:
            self._held.append(filepath)

    def hold_removals(self) -> None:
        self._held = []

    def remove_held(self) -> None:
        held, self._held = self._held or [], None
        for path in held:
            self.remove(path)


register_backend(BACKEND, AtomicBackend, force=True)
