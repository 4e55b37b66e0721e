"""The ledger of a running sidecar: append, wait until durable, read.

`append` runs on the event loop's thread: it checks, canonicalises and hashes at once, so that a bad record fails where
it was made. The writer thread commits; its events come back to the loop, one call for each batch.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import assert_never

from authz_sidecar.clock import Now, format_time, parse_time
from authz_sidecar.errors import LedgerUnavailable, Overloaded
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.opening import OpenedFiles, open_files
from authz_sidecar.ledger.options import LedgerOptions
from authz_sidecar.ledger.prepare import PreparedEntry, prepare
from authz_sidecar.ledger.projections import RevocationRow
from authz_sidecar.ledger.reads import LedgerReads, StoredEntry
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.ledger.schema import Connect
from authz_sidecar.ledger.writer import Committed, Event, Poisoned, Refused, Signed, Space, Stopped, Writer
from authz_sidecar.revoked import Revocation

__all__ = ["Ledger", "LedgerOptions", "Position", "StoredEntry"]

_DEFAULTS = LedgerOptions()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a durable record stands: the log's origin, the index, the leaf hash."""

    log: str
    index: int
    leaf_hash: bytes


@dataclass(slots=True)
class _Waiting:
    """A record that was accepted and is not durable yet. Of an older generation, it will be refused."""

    entry: PreparedEntry
    future: asyncio.Future[Position]
    generation: int


class Ledger(LedgerReads):
    """One log, one writer. All methods belong to the thread of the event loop that appends.

    Attributes:
        poisoned: why nothing can be stored any more; None while all is well.
        full: whether the newest attempt to store something found the disk full. Ends by itself when there is space.
    """

    def __init__(
        self,
        files: OpenedFiles,
        *,
        signer: Signer,
        new_salt: Callable[[], bytes],
        options: LedgerOptions,
        on_poison: Callable[[str], None] | None,
        on_commit: Callable[[float, int], None],
    ) -> None:
        """Use `open`."""
        super().__init__(files.reader)
        self.poisoned: str | None = None
        self.full = False
        self._files = files
        self._new_salt = new_salt
        self._options = options
        self._on_poison = on_poison
        self._on_commit = on_commit
        self._size = files.tree.size
        self._revocation_epoch = self._accepted_epoch = super().revocation_epoch
        self._on_revocation: Callable[[Revocation], None] | None = None
        self._last = format_time(files.last_time) if files.last_time else ""
        self._stepped = False
        self._steps = 0
        self._generation = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._signing: deque[asyncio.Future[str]] = deque()
        self._stopping: asyncio.Future[bool] | None = None
        self._writer = Writer(
            connection=files.writer,
            tree=files.tree,
            signed_size=files.signed_size,
            epoch=files.epoch,
            signer=signer,
            identity=files.identity,
            options=options,
            remember=files.remember,
            deliver=self._deliver,
        )

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        signer: Signer,
        now: Now,
        new_salt: Callable[[], bytes],
        options: LedgerOptions = _DEFAULTS,
        on_poison: Callable[[str], None] | None = None,
        on_commit: Callable[[float, int], None] = lambda _seconds, _records: None,
        witnessed: str | None = None,
        connect: Connect = sqlite3.connect,
    ) -> Ledger:
        """Open the ledger in `directory`, creating directory (0700) and ledger when there is none, and start writing.

        Does not hash the whole log: see `boot`. After a run that did not close the log, a `recovery` record is stored.

        Args:
            signer: the log's key; its name is the log's origin.
            now: the wall clock; read at opening only, records bring their own time.
            new_salt: 16 or more fresh random bytes for every salted payload.
            on_poison: called once, with the reason, when nothing can be stored any more: on the loop's thread, or on
                the writer's when nothing was ever appended. The process should stop serving and exit.
            on_commit: called on the loop's thread after each durable commit, with its seconds and its records.
            witnessed: newest checkpoint of this log that was kept elsewhere; a smaller or different log is refused.
            connect: `sqlite3.connect` or a stand-in.

        Raises:
            OperatorError: no access, another process writes here, another key or format.
            IntegrityFailure: the files contradict themselves or `witnessed`.
            ClockBehind: the clock is behind the newest entry by more than the tolerance.
        """
        files = open_files(directory, signer=signer, now=now, options=options, witnessed=witnessed, connect=connect)
        ledger = cls(files, signer=signer, new_salt=new_salt, options=options, on_poison=on_poison, on_commit=on_commit)
        ledger._writer.start()
        return ledger

    @property
    def size(self) -> int:
        """Durable entries, as far as their waiters were told."""
        return self._size

    @property
    def revocation_epoch(self) -> int:
        """How many revocations are durable. Only rises."""
        return self._revocation_epoch

    @property
    def accepted_epoch(self) -> int:
        """The revocation epoch that the next record will find, when everything accepted so far is stored.

        Right after `append` of a record that revokes it is that revocation's number.
        """
        return self._accepted_epoch

    def follow_revocations(self, told: Callable[[Revocation], None]) -> None:
        """Call `told` with every revocation once it is durable, in order, before anybody who waits for its record."""
        self._on_revocation = told

    @property
    def last_time(self) -> datetime | None:
        """Time of the newest accepted record; None for an empty log. A clock behind it is behind the log."""
        return parse_time(self._last) if self._last else None

    def append(self, record: Record) -> asyncio.Future[Position]:
        """Accept a record. The future resolves when it is durable, in the order of the calls.

        A record older than the newest one gets that one's time. When it is older by more than the tolerance, a
        `clock_step` record comes first, once for each step.

        Cancelling the future does not take the record back.

        Raises:
            MalformedRecord, NotCanonical: it cannot be written; nothing was stored.
            Overloaded: too many records are waiting for the disk.
            LedgerUnavailable: closed or poisoned. The future raises it too, when the record was not stored or when it
                is not known whether it was.
        """
        self._check_open()
        if len(self._waiting) >= self._options.max_queued or self._waiting_bytes >= self._options.max_queued_bytes:
            raise Overloaded(f"{len(self._waiting)} records are waiting for the disk; try again later")
        entry = prepare(record, not_before=self._last, new_salt=self._new_salt)
        observed = str(record.body["time"])
        if observed < self._last:
            self._note_step(observed)
        else:
            self._stepped = False
            self._last = observed
        return self._enqueue(entry)

    def checkpoint_now(self) -> asyncio.Future[str]:
        """Sign what is durable, after everything accepted so far. Resolves to the note, or raises LedgerUnavailable."""
        self._check_open()
        future: asyncio.Future[str] = self._bound_loop().create_future()
        self._signing.append(future)
        self._writer.sign_now()
        return future

    async def close(self) -> None:
        """Store what was accepted, sign, mark the log as closed and release the directory. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        if self.poisoned is None:
            self._stopping = self._bound_loop().create_future()
            self._writer.stop()
            await self._stopping
        self._writer.join()
        self._files.close(poisoned=self.poisoned is not None)

    def _note_step(self, observed: str) -> None:
        """Record a clock that was set back. Small inversions are only requests that overtook each other."""
        behind = parse_time(self._last) - parse_time(observed)
        if self._stepped or behind <= self._options.clock_tolerance:
            return
        self._stepped = True
        self._steps += 1
        body = envelope(
            "clock_step",
            record_id=f"clock-step-{self._files.epoch}-{self._steps}",
            time=parse_time(self._last),
            clock_step={"from": self._last, "to": observed},
        )
        step = prepare(Record(type="clock_step", body=body), not_before=self._last, new_salt=self._new_salt)
        # Nobody waits for it: when it fails, so does the record behind it, which somebody waits for.
        self._enqueue(step).add_done_callback(lambda future: future.cancelled() or future.exception())

    def _enqueue(self, entry: PreparedEntry) -> asyncio.Future[Position]:
        future: asyncio.Future[Position] = self._bound_loop().create_future()
        self._waiting.append(_Waiting(entry, future, self._generation))
        self._waiting_bytes += entry.size
        self._accepted_epoch += entry.derived.revokes
        self._writer.put(entry, self._generation)
        return future

    def _check_open(self) -> None:
        if self.poisoned is not None:
            raise LedgerUnavailable(f"the ledger cannot be written any more: {self.poisoned}")
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")

    def _bound_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _deliver(self, event: Event) -> None:
        """On the writer thread: bring an event to the loop, where all waiters of a batch are told in one turn."""
        if self._loop is None:
            self._settle(event)
            return
        # The loop is gone only when nobody is left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, event)

    def _settle(self, event: Event) -> None:
        match event:
            case Committed(first, count, seconds):
                self._on_commit(seconds, count)
                self._acknowledge(first, count)
            case Refused(count, generation):
                self._generation = generation
                self._refuse(count, "the disk is full: nothing was stored; free some space")
                # What waits in an older generation will be refused as well.
                waiting = (one for one in self._waiting if one.generation == generation)
                self._accepted_epoch = self._revocation_epoch + sum(one.entry.derived.revokes for one in waiting)
            case Signed(note):
                self._answer_signing(note)
            case Space(full):
                self.full = full
            case Poisoned(reason):
                self._poison(reason)
            case Stopped(clean):
                if self._stopping is not None and not self._stopping.done():
                    self._stopping.set_result(clean)
            case _:
                assert_never(event)

    def _acknowledge(self, first: int, count: int) -> None:
        for index in range(first, first + count):
            waiting = self._waiting.popleft()
            self._waiting_bytes -= waiting.entry.size
            if waiting.entry.derived.revocation is not None:
                self._tell(waiting.entry.derived.revocation)
            if not waiting.future.done():
                waiting.future.set_result(Position(self.origin, index, waiting.entry.leaf_hash))
        self._size = first + count

    def _tell(self, row: RevocationRow) -> None:
        self._revocation_epoch += 1
        if self._on_revocation is not None:
            expires_at = parse_time(row.expires_at).timestamp() if row.expires_at is not None else None
            self._on_revocation(
                Revocation(
                    sequence=self._revocation_epoch,
                    kind=row.kind,
                    target=row.target,
                    expires_at=expires_at,
                    task_epoch=row.task_epoch,
                )
            )

    def _refuse(self, count: int, why: str) -> None:
        for _ in range(count):
            waiting = self._waiting.popleft()
            self._waiting_bytes -= waiting.entry.size
            if not waiting.future.done():
                waiting.future.set_exception(LedgerUnavailable(why))

    def _answer_signing(self, note: str | None) -> None:
        future = self._signing.popleft()
        if future.done():
            return
        if note is None:
            future.set_exception(LedgerUnavailable("the disk is full: no checkpoint was stored; free some space"))
        else:
            future.set_result(note)

    def _poison(self, reason: str) -> None:
        self.poisoned = reason
        self._refuse(len(self._waiting), f"the ledger cannot be written any more: {reason}")
        while self._signing:
            self._signing.popleft().set_exception(LedgerUnavailable(reason))
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(False)
        if self._on_poison is not None:
            self._on_poison(reason)
