"""Files that somebody else replaces: noticed by stat signature, read at one generation, the last good value kept."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from authz_sidecar.errors import OperatorError

_MAX_FILE_BYTES = 1 << 20
_ATTEMPTS = 3

# Resolved path, device, inode, size, mtime and ctime in ns: the path because Kubernetes swaps a symbolic link above
# the file, ctime because a change of mode counts too.
_Signature: TypeAlias = tuple[str, int, int, int, int, int]

Value = TypeVar("Value")


class Watched(Generic[Value]):
    """A value read from files that have to fit together.

    Attributes:
        value: the last good value.
        error: why what is on disk now is not in use; None when it is.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Value]) -> None:
        """Read once. Raises OperatorError as `read` does."""
        self._paths = tuple(paths)
        self._read = read
        self.error: str | None = None
        self._signatures, self.value = self._load()

    def refresh(self) -> None:
        """Read again if a file changed, or if the last attempt failed. Never raises."""
        if self.error is None and self._signatures == self._sign_all():
            return
        try:
            self._signatures, self.value = self._load()
        except OperatorError as error:
            self.error = error.message
        else:
            self.error = None

    def _load(self) -> tuple[list[_Signature | None], Value]:
        """Read until the signatures before and after agree, so that all files are of one generation."""
        for attempt in range(1, _ATTEMPTS + 1):
            before = self._sign_all()
            try:
                value = self._read()
            except OperatorError:
                # Half of an update looks like a broken file; only a file that stands still is really broken.
                if attempt == _ATTEMPTS or before == self._sign_all():
                    raise
                continue
            if before == self._sign_all():
                return before, value
        raise OperatorError(f"`{self._paths[0]}` keeps changing while it is read; replace files by renaming")

    def _sign_all(self) -> list[_Signature | None]:
        return [_sign(path) for path in self._paths]


def read_regular(path: Path) -> bytes:
    """A regular file of at most 1 MiB. Raises OperatorError naming the file."""
    return _read(path, private=False)


def read_private(path: Path) -> bytes:
    """Like `read_regular`, and refuse a key that others can read or replace.

    A file of ours must be 0600 or stricter. A file of root's may be readable by our group (0640), which is how
    Kubernetes mounts Secrets under `fsGroup`. A file of anybody else's is refused.
    """
    return _read(path, private=True)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe by mistake must not hang the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OperatorError(f"`{path}` is not a regular file; name the file itself")
            if private:
                _check_private(path, status)
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"can not read `{path}`: {error.strerror}; check the path and its permissions") from None
    if len(content) > _MAX_FILE_BYTES:
        raise OperatorError(
            f"`{path}` is longer than {_MAX_FILE_BYTES} bytes; expected certificates, a key or a bundle"
        )
    return content


def _check_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == os.geteuid():
        if mode & 0o077:
            raise OperatorError(f"`{path}` has mode {mode:04o}, so others can read the key; chmod 0600 it")
    elif status.st_uid == 0:
        if mode & 0o027:
            raise OperatorError(f"`{path}` has mode {mode:04o}, so others can use the key; mount it 0440 or 0640")
    else:
        raise OperatorError(
            f"`{path}` belongs to uid {status.st_uid}; it has to be owned by uid {os.geteuid()} or root"
        )


def _sign(path: Path) -> _Signature | None:
    try:
        resolved = os.path.realpath(path)
        status = Path(resolved).stat()
    except OSError:
        return None
    return (resolved, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
