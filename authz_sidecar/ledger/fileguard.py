"""Knowing that the files being written are still the files that were opened.

Writes to an unlinked or replaced file succeed for ever, in SQLite too: commits keep reporting success and are gone with
the process. So the writer looks at the names after every batch. Only `stat` is used: opening and closing the database
file in this process would drop the POSIX locks that SQLite holds.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from authz_sidecar.errors import OperatorError
from authz_sidecar.ledger.schema import DATABASE, LOCK, WAL

# Longer than any text: a checkpoint holds the origin, at most 255 characters, twice.
_MARK_BYTES = 2047


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Device and inode of the database and its write-ahead log, as they were when the writer opened them."""

    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, directory: Path) -> FileIdentity:
        """Take it after the first commit, when both files exist. Raises OSError."""
        paths = [directory.absolute() / name for name in (DATABASE, WAL)]
        return cls(tuple((str(path), path.stat().st_dev, path.stat().st_ino) for path in paths))

    def problem(self) -> str | None:
        """What happened to the files; None while all is well. A few microseconds."""
        for path, device, inode in self.files:
            try:
                # After every batch: `Path.stat` takes several times as long.
                found = os.stat(path)  # noqa: PTH116
            except FileNotFoundError:
                return f"`{path}` was deleted or renamed while the ledger was open"
            except OSError as error:
                return f"`{path}` cannot be examined any more: {error.strerror}"
            if found.st_dev != device or found.st_ino != inode or found.st_nlink == 0:
                return f"`{path}` was replaced by another file while the ledger was open"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the lock file knows of the ledger beside it.

    Attributes:
        origin: origin of the ledger that was created here; None when none was.
        epoch: epoch of the last run that opened it.
        checkpoint: newest signed checkpoint of that run; None when it got to none.
    """

    origin: str | None = None
    epoch: int = 0
    checkpoint: str | None = None


class DirectoryLock:
    """`LOCK`, held by flock for the life of the process, so that a ledger has one writer.

    Its text says who holds it and what was last seen of the ledger, so that a database or a write-ahead log that was
    deleted, emptied or put back is told from a directory that never had more. It is no proof against somebody who can
    write to the directory: that is what checkpoints kept elsewhere are for.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises OperatorError when another process has it, OSError when the file cannot be made."""
        self._path = directory / LOCK
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._text().get("pid", "unknown")
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise OperatorError(
                f"the ledger in `{directory}` is in use by process {holder}: stop it, or give this process its own"
                " ledger directory"
            ) from None

    def remembered(self) -> Remembered:
        """What the last holder left. A file that cannot be read knows nothing."""
        text = self._text()
        origin, epoch, checkpoint = (text.get(name) for name in ("origin", "epoch", "checkpoint"))
        return Remembered(
            origin=origin if isinstance(origin, str) else None,
            epoch=epoch if isinstance(epoch, int) else 0,
            checkpoint=checkpoint if isinstance(checkpoint, str) else None,
        )

    def remember(self, seen: Remembered, *, sync: bool) -> None:
        """Write down who holds the lock and what it saw. One write of one length, so that no kill leaves half of it.

        Without `sync` a power loss may take it back: then it knows less than the ledger, never more. Raises OSError.
        """
        text = json.dumps({"pid": os.getpid(), **asdict(seen)}).encode()
        os.pwrite(self._descriptor, text.ljust(_MARK_BYTES) + b"\n", 0)
        if sync:
            os.fsync(self._descriptor)

    def release(self) -> None:
        os.close(self._descriptor)

    def _text(self) -> dict[str, object]:
        try:
            parsed = json.loads(os.pread(self._descriptor, 2 * _MARK_BYTES, 0) or b"{}")
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}
