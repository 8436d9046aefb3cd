"""Files that are there whole or not at all, whatever happens while they are written."""

import contextlib
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

BACKEND = 'attn_plugins_atomic'


class WriteError(OSError):
    """A file could not be written; what was there before still is."""


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes a file under a temporary name, waits for the disk, and renames it.

    A process or machine that dies meanwhile leaves the old file as it was, and perhaps
    a temporary one, for which see ``remove_leftovers``.

    Raises:
        WriteError: If the disk is full, say. The temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise WriteError(
                f'{path} cannot be written ({error.strerror or error}). All that was '
                'saved before is still there: make room and resume.'
            ) from error
        raise
    # The new name, too, is on the disk only after this.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: str | Path) -> None:
    """Removes the temporary files of writers that were killed."""
    for path in Path(folder).glob('.*.tmp'):
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
