"""Taking a ledger directory into possession: lock, create or examine, fence, recover."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from authz_sidecar.clock import Now, format_time
from authz_sidecar.errors import IntegrityFailure, OperatorError
from authz_sidecar.ledger.boot import REMEDY, BootState, examine
from authz_sidecar.ledger.commit import insert_entries
from authz_sidecar.ledger.fileguard import DirectoryLock, FileIdentity, Remembered
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.options import LedgerOptions
from authz_sidecar.ledger.prepare import prepare
from authz_sidecar.ledger.reader import NOT_A_LEDGER, check_format, check_not_empty
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.ledger.schema import DATABASE, WAL, Connect, create_database, open_reader, open_writer
from authz_sidecar.ledger.tree import CompactRange


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedFiles:
    """Everything that is held while a ledger is open."""

    lock: DirectoryLock
    origin: str
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    identity: FileIdentity
    tree: CompactRange
    signed_size: int
    epoch: int
    last_time: datetime | None

    def remember(self, checkpoint: str) -> None:
        """Keep the newest checkpoint in the lock file too. A failure only leaves the one before."""
        with suppress(OSError):
            self.lock.remember(Remembered(origin=self.origin, epoch=self.epoch, checkpoint=checkpoint), sync=False)

    def close(self, *, poisoned: bool) -> None:
        """Release everything.

        SQLite's last connection moves the write-ahead log into the database. After a clean stop that is wanted, so the
        writer goes last; after a failure it must not happen, so the last one is the reader, which cannot write.
        """
        for connection in (self.writer, self.reader) if poisoned else (self.reader, self.writer):
            connection.close()
        self.lock.release()


def open_files(
    directory: Path,
    *,
    signer: Signer,
    now: Now,
    options: LedgerOptions,
    witnessed: str | None,
    connect: Connect,
) -> OpenedFiles:
    """See `Ledger.open` for arguments and errors."""
    database = directory / DATABASE
    with ExitStack() as undo, _explained(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        undo.callback(lock.release)
        _create_if_new(directory, lock, signer, witnessed)
        check_not_empty(database)
        # Examined through a connection that cannot write: closing another one would move the write-ahead log into a
        # database that it may not belong to, and a refused start must leave the evidence as it is.
        reader = open_reader(database, connect)
        undo.callback(reader.close)
        check_format(reader, database)
        state = examine(
            reader,
            directory=directory,
            signer=signer,
            now=now,
            clock_tolerance=options.clock_tolerance,
            witnessed=witnessed,
            remembered=lock.remembered(),
        )
        writer = open_writer(database, connect, options.busy_timeout.total_seconds())
        undo.callback(writer.close)
        last_time = _take_over(writer, state, now)
        lock.remember(Remembered(origin=signer.name, epoch=state.epoch + 1, checkpoint=state.checkpoint), sync=True)
        files = OpenedFiles(
            lock=lock,
            origin=signer.name,
            writer=writer,
            reader=reader,
            identity=FileIdentity.of(directory),
            tree=state.tree,
            signed_size=state.signed_size,
            epoch=state.epoch + 1,
            last_time=last_time,
        )
        undo.pop_all()
    return files


def _create_if_new(directory: Path, lock: DirectoryLock, signer: Signer, witnessed: str | None) -> None:
    database = directory / DATABASE
    if database.exists():
        return
    if lock.remembered().origin is not None or witnessed is not None or (directory / WAL).exists():
        raise IntegrityFailure(f"`{database}` is gone, but there was a ledger here before; {REMEDY}")
    create_database(database, signer)


def _take_over(writer: sqlite3.Connection, state: BootState, now: Now) -> datetime | None:
    """Raise the epoch, which stops any older writer, and record an unclean stop; all in one transaction."""
    epoch = state.epoch + 1
    writer.execute("BEGIN IMMEDIATE")
    updated = writer.execute(
        "UPDATE log SET epoch = ?, clean = 0, run_start = ? WHERE epoch = ?", (epoch, state.tree.size, state.epoch)
    )
    if updated.rowcount != 1:
        raise OperatorError("another process opened this ledger at the same moment: run only one")
    last_time = state.last_time
    if not state.clean:
        moment = now()
        last_time = moment if last_time is None else max(moment, last_time)
        record = _recovery(writer, state, epoch, last_time)
        entry = prepare(record, not_before=format_time(last_time), new_salt=bytes)
        insert_entries(writer, epoch, state.tree, [entry])
    writer.execute("COMMIT")
    return last_time


def _recovery(writer: sqlite3.Connection, state: BootState, epoch: int, time: datetime) -> Record:
    """The last batch of the previous run may or may not have been answered; its permits are named."""
    permits = writer.execute(
        "SELECT decision_id FROM record_index WHERE idx >= ? AND idx < ? AND type = 'decision' AND outcome = 'permit'"
        " ORDER BY idx",
        (state.unknown.start, state.unknown.stop),
    )
    body = envelope(
        "recovery",
        record_id=f"recovery-{epoch}",
        time=time,
        recovery={
            "epoch": epoch,
            "size": state.tree.size,
            "unknown": {"first": state.unknown.start, "end": state.unknown.stop},
            "permits": [row[0] for row in permits],
        },
    )
    return Record(type="recovery", body=body)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Say whose fault a failure to open is, and what to do."""
    try:
        yield
    except OSError as error:
        raise OperatorError(
            f"cannot use `{directory}` for the ledger: {error.strerror or error}; it must be a directory this user can"
            " write to, on a local disk"
        ) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in NOT_A_LEDGER:
            raise IntegrityFailure(f"the database in `{directory}` is damaged ({error}); {REMEDY}") from error
        raise OperatorError(
            f"cannot open the ledger in `{directory}`: {error}; check permissions, free space and other processes"
        ) from error
