"""Small files that must be whole and on disk, or not there at all: keys, bundles, checkpoints.

Order of every write: temporary file in the same directory, content, fsync, name, fsync of the directory. A crash
before the name leaves the previous file; a crash after it leaves the new one. A temporary file may be left behind
by a crash; it starts with `.tmp-` and is never read.

Not checked: who owns the directory, and whether the volume honours fsync.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PRIVATE = 0o600
_PUBLIC = 0o644


def write_private(path: Path, content: bytes) -> None:
    """Create or replace `path`, readable by its owner only (0600 whatever the umask).

    A symbolic link at `path` is replaced, not followed. Raises OSError; `path` is then unchanged.
    """
    _replace(path, content, _PRIVATE)


def write_public(path: Path, content: bytes) -> None:
    """Like `write_private`, readable by everyone (0644 whatever the umask)."""
    _replace(path, content, _PUBLIC)


def create_exclusive(path: Path, content: bytes, *, public: bool = False) -> None:
    """Create `path` whole and durable, 0600 or 0644; never overwrite.

    Raises FileExistsError when anything is at `path`, a dangling symbolic link included, and OSError otherwise.
    """
    with _temporary(path, content, _PUBLIC if public else _PRIVATE) as temporary:
        # link(2) is the one call that names a finished file and fails when the name is taken.
        os.link(temporary, path, follow_symlinks=False)
        _sync_directory(path.parent)


def _replace(path: Path, content: bytes, mode: int) -> None:
    with _temporary(path, content, mode) as temporary:
        temporary.replace(path)
        _sync_directory(path.parent)


@contextmanager
def _temporary(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A synced file beside `path`; what is left of it afterwards is removed."""
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable: without it a crash can undo the rename."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
