"""Opening a ledger to read it from outside the sidecar: while it runs, after it stopped, and from read-only media."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from authz_sidecar.errors import IntegrityFailure, OperatorError
from authz_sidecar.ledger.reads import LedgerReads, StoredEntry
from authz_sidecar.ledger.schema import DATABASE, FORMAT, WAL, open_reader

__all__ = ["NOT_A_LEDGER", "LedgerReader", "StoredEntry", "check_format", "check_not_empty"]

# SQLITE_ERROR is what a missing table gives.
NOT_A_LEDGER = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_EVIDENCE = "keep the directory as evidence, then start a new ledger in an empty directory"


class LedgerReader(LedgerReads):
    """A ledger directory, opened read-only. Close it, or use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, directory: Path, release: Callable[[], None]) -> None:
        super().__init__(connection)
        self.directory = directory
        self._release = release

    @classmethod
    def open(cls, directory: Path) -> LedgerReader:
        """Open the ledger in `directory`. Nothing is verified; that is what `verify` is for.

        On a directory that cannot be written and holds an unfinished write-ahead log, database and log are copied to a
        temporary directory first: SQLite cannot read them in place.

        Raises:
            OperatorError: there is no ledger, it cannot be read, or it was written in another format.
            IntegrityFailure: the file is not a ledger database any more.
        """
        database = directory / DATABASE
        if not database.is_file():
            raise OperatorError(
                f"no ledger in `{directory}`: expected `{DATABASE}`; give the directory that the sidecar writes to"
            )
        check_not_empty(database)
        connection, release = _connect(directory)
        try:
            check_format(connection, database)
            return cls(connection, directory, release)
        except BaseException:
            connection.close()
            release()
            raise

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the ledger, however long the reading takes."""
        self._read.execute("BEGIN")
        try:
            yield self._read
        finally:
            self._read.execute("ROLLBACK")

    def close(self) -> None:
        self._read.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check_not_empty(database: Path) -> None:
    """Before SQLite sees it: beside an empty database it deletes the write-ahead log, even when it only reads.

    Raises IntegrityFailure, OSError.
    """
    if database.stat().st_size == 0:
        raise IntegrityFailure(f"`{database}` is empty, which no ledger is: {_EVIDENCE}")


def check_format(connection: sqlite3.Connection, database: Path) -> None:
    """Refuse what is not a ledger of this format. Raises OperatorError, IntegrityFailure."""
    try:
        row = connection.execute("SELECT format FROM log").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in NOT_A_LEDGER:
            raise OperatorError(f"cannot read `{database}`: {error}; check permissions and the disk") from error
        raise IntegrityFailure(f"`{database}` is not a readable ledger ({error}): {_EVIDENCE}") from error
    if row is None:
        raise IntegrityFailure(f"`{database}` has lost its `log` row: keep the directory as evidence")
    if row[0] != FORMAT:
        raise OperatorError(
            f"`{database}` has format {row[0]}, this version reads {FORMAT}: use the version that wrote it"
        )


def _connect(directory: Path) -> tuple[sqlite3.Connection, Callable[[], None]]:
    database = directory / DATABASE
    connection = open_reader(database)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if os.access(directory, os.W_OK) and not _is_read_only(directory):
            raise OperatorError(f"cannot read `{database}`: {error}; check its permissions") from error
    except sqlite3.DatabaseError:
        # Not a database at all: `check_format` words that.
        return connection, _nothing
    else:
        return connection, _nothing
    wal = directory / WAL
    with suppress(FileNotFoundError):
        if wal.stat().st_size > 0:
            return _connect_copy(directory)
    return open_reader(database, immutable=True), _nothing


def _connect_copy(directory: Path) -> tuple[sqlite3.Connection, Callable[[], None]]:
    copy = TemporaryDirectory(prefix="ledger-")
    try:
        for name in (DATABASE, WAL):
            shutil.copyfile(directory / name, Path(copy.name) / name)
        return open_reader(Path(copy.name) / DATABASE), copy.cleanup
    except OSError as error:
        copy.cleanup()
        raise OperatorError(f"cannot copy the ledger in `{directory}` to read it: {error}") from error


def _is_read_only(directory: Path) -> bool:
    """Mounted read-only, where the permission bits say nothing."""
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _nothing() -> None:
    return None
