"""The writer thread: it owns the one connection that writes, and nothing is acknowledged before it says so.

Group commit without a timer: everything queued while the previous commit ran goes into the next one.

INVARIANT: after a failed commit or sync, or files that are not the opened ones any more, the state on disk is unknown.
The writer is poisoned: it refuses all waiters and never touches the connection again. The one exception is a full disk,
which SQLite reports before anything is committed: the batch is rolled back and refused, and writing goes on. Whatever
was queued behind a refused batch is refused with it, because it was decided in the belief that the batch would hold.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TypeAlias

from authz_sidecar.ledger.commit import StaleEpoch, insert_checkpoint, insert_entries
from authz_sidecar.ledger.fileguard import FileIdentity
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.options import LedgerOptions
from authz_sidecar.ledger.prepare import PreparedEntry
from authz_sidecar.ledger.tree import CompactRange

_IDLE_S = 1.0
# Nothing queued for so long is a pause in which housekeeping disturbs nobody.
_PAUSE_S = 0.1
_PAGE_BYTES = 4096
# Pages that even the smallest batch rewrites, and index bytes for each record: estimates that only pace housekeeping.
_PAGES_PER_BATCH = 8
_INDEX_BYTES = 512


@dataclass(frozen=True, slots=True)
class Committed:
    """The oldest `count` waiting records are durable, from index `first` on; the commit took `seconds`."""

    first: int
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The oldest `count` waiting records were not stored. Records of an older `generation` will be refused too."""

    count: int
    generation: int


@dataclass(frozen=True, slots=True)
class Signed:
    """Answer to `sign_now`; None when the disk is full."""

    note: str | None


@dataclass(frozen=True, slots=True)
class Space:
    """The disk is full, or no longer. It comes before the event of the batch that found out."""

    full: bool


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Nothing will be stored any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everything queued was stored, and so was the closing checkpoint unless the disk was full."""

    clean: bool


Event: TypeAlias = Committed | Refused | Signed | Space | Poisoned | Stopped


@dataclass(frozen=True, slots=True)
class _Queued:
    entry: PreparedEntry
    generation: int


class _Sign:
    """Request to sign the tree now."""


class _Stop:
    """Request to finish."""


class _FilesChanged(Exception):
    """The names on disk lead elsewhere."""


class Writer:
    """One thread, one connection. The methods here may be called from any thread."""

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        tree: CompactRange,
        signed_size: int,
        epoch: int,
        signer: Signer,
        identity: FileIdentity,
        options: LedgerOptions,
        remember: Callable[[str], None],
        deliver: Callable[[Event], None],
    ) -> None:
        """
        Args:
            tree: the tree as it stands in the database.
            signed_size: size of its newest checkpoint.
            remember: called on the writer thread with every checkpoint that is durable; must not raise.
            deliver: called on the writer thread with every event, in order; must not raise.
        """
        self._connection = connection
        self._tree = tree
        self._epoch = epoch
        self._signer = signer
        self._identity = identity
        self._options = options
        self._remember = remember
        self._deliver = deliver
        self._queue: SimpleQueue[_Queued | _Sign | _Stop] = SimpleQueue()
        self._held: _Queued | _Sign | _Stop | None = None
        self._generation = 0
        self._full = False
        self._signed_size = signed_size
        self._signed_at = monotonic()
        self._wal_bytes = 0
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, entry: PreparedEntry, generation: int) -> None:
        self._queue.put(_Queued(entry, generation))

    def sign_now(self) -> None:
        self._queue.put(_Sign())

    def stop(self) -> None:
        """Store what is queued, sign, and end the thread."""
        self._queue.put(_Stop())

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except _FilesChanged as error:
            self._deliver(Poisoned(str(error)))
        except StaleEpoch:
            self._deliver(Poisoned("another process took the ledger over: this one must not write any more"))
        except sqlite3.Error as error:
            self._deliver(Poisoned(f"a commit failed ({error}): what is on disk is not known"))
        except Exception as error:
            # Whatever it is, waiters must not hang and nothing may be acknowledged.
            self._deliver(Poisoned(f"the ledger writer failed ({type(error).__name__})"))

    def _turn(self) -> bool:
        """Do one thing. False when the thread is done."""
        item = self._next()
        if isinstance(item, _Stop):
            self._deliver(Stopped(self._finish()))
            return False
        if isinstance(item, _Sign):
            self._deliver(Signed(self._sign()))
        elif item is not None:
            self._store(self._batch(item))
        else:
            self._check_files()
            if self._full:
                self._probe()
        if self._sign_due() <= 0:
            self._sign()
        if self._wal_bytes >= (self._options.wal_idle_bytes if item is None else self._options.wal_busy_bytes):
            self._checkpoint_wal()
        return True

    def _next(self) -> _Queued | _Sign | _Stop | None:
        if self._held is not None:
            item, self._held = self._held, None
            return item
        pause = _PAUSE_S if self._wal_bytes >= self._options.wal_idle_bytes else _IDLE_S
        try:
            return self._queue.get(timeout=min(pause, self._sign_due()))
        except Empty:
            return None

    def _batch(self, first: _Queued) -> list[_Queued]:
        """`first` and what is queued behind it, up to the limits and the next request that is not a record."""
        batch, size = [first], first.entry.size
        while len(batch) < self._options.max_batch and size < self._options.max_batch_bytes:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if not isinstance(item, _Queued):
                self._held = item
                break
            batch.append(item)
            size += item.entry.size
        return batch

    def _store(self, batch: list[_Queued]) -> None:
        stale = sum(item.generation != self._generation for item in batch)
        if stale:
            self._deliver(Refused(stale, self._generation))
        # Generations only rise along the queue, so the stale ones are the oldest.
        entries = [item.entry for item in batch[stale:]]
        if not entries:
            return
        tree = self._tree.copy()
        first, began = tree.size, monotonic()
        if not self._transaction(lambda: insert_entries(self._connection, self._epoch, tree, entries)):
            self._generation += 1
            self._deliver(Refused(len(entries), self._generation))
            return
        self._check_files()
        self._tree = tree
        self._wal_bytes += _PAGES_PER_BATCH * _PAGE_BYTES + sum(entry.size + _INDEX_BYTES for entry in entries)
        self._deliver(Committed(first, len(entries), monotonic() - began))

    def _sign(self) -> str | None:
        """Sign the committed tree and keep the note. None when the disk is full; it is tried again later."""
        self._signed_at = monotonic()
        notes: list[str] = []

        def sign() -> None:
            notes.append(insert_checkpoint(self._connection, self._epoch, self._tree, self._signer))

        stored = self._transaction(sign)
        if not stored:
            return None
        self._signed_size = self._tree.size
        # Before looking at the files: where they are gone, this is what tells the next start how much there was.
        self._remember(notes[0])
        self._check_files()
        return notes[0]

    def _sign_due(self) -> float:
        """Seconds until the tree should be signed."""
        if self._tree.size == self._signed_size:
            return _IDLE_S
        return max(0.0, self._signed_at + self._options.checkpoint_interval.total_seconds() - monotonic())

    def _finish(self) -> bool:
        notes: list[str] = []

        def close_log() -> None:
            notes.append(insert_checkpoint(self._connection, self._epoch, self._tree, self._signer))
            self._connection.execute("UPDATE log SET clean = 1")

        if not self._transaction(close_log):
            return False
        self._remember(notes[0])
        self._check_files()
        self._checkpoint_wal()
        return True

    def _transaction(self, work: Callable[[], None]) -> bool:
        """Run `work` in a transaction of its own. False when the disk is full and all of it was rolled back."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            work()
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if not _is_disk_full(error):
                raise
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._note_space(full=True)
            return False
        self._note_space(full=False)
        return True

    def _note_space(self, *, full: bool) -> None:
        if full != self._full:
            self._full = full
            self._deliver(Space(full))

    def _probe(self) -> None:
        """Find out whether there is space again when nobody asks: who sees a full disk may have stopped asking."""

        def touch() -> None:
            self._connection.execute("UPDATE log SET clean = 0 WHERE epoch = ?", (self._epoch,))

        self._transaction(touch)

    def _check_files(self) -> None:
        problem = self._identity.problem()
        if problem is not None:
            raise _FilesChanged(problem)

    def _checkpoint_wal(self) -> None:
        """Move the write-ahead log into the database: some ten milliseconds in which no commit can run.

        A reader or a full disk may leave some of it where it is; it is tried again when the log has grown.
        """
        self._wal_bytes = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            if not _is_disk_full(error):
                raise


def _is_disk_full(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
