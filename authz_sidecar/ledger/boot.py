"""What is checked before the first record of a run is accepted. Quick: it does not read the whole log.

The newest checkpoint must be signed by our key and the stored hashes must lead to its root; the entries behind it are
hashed again. An entry altered long ago, or an altered state table, is found by `verify`, which an auditor runs.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import orjson

from authz_sidecar.clock import Now, parse_time
from authz_sidecar.errors import ClockBehind, IntegrityFailure, OperatorError
from authz_sidecar.ledger.checkpoint import Checkpoint, open_checkpoint
from authz_sidecar.ledger.fileguard import Remembered
from authz_sidecar.ledger.note import NoteError, Signer, VerifierKey
from authz_sidecar.ledger.reads import LedgerReads
from authz_sidecar.ledger.schema import LOCK
from authz_sidecar.ledger.tree import CompactRange, leaf_hash

REMEDY = (
    "keep the directory as evidence and run `authz-sidecar audit verify` on it; then start a new"
    " ledger in an empty directory"
)

_TAIL_PAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BootState:
    """What the log says about itself, checked.

    Attributes:
        tree: all entries.
        checkpoint, signed_size: the newest checkpoint, and its size.
        last_time: time of the newest entry; None for an empty log.
        epoch: fencing epoch of the previous run.
        clean: whether the previous run closed the log.
        unknown: the last batch of a run that did not: its records are stored, but their callers may not know.
    """

    tree: CompactRange
    checkpoint: str
    signed_size: int
    last_time: datetime | None
    epoch: int
    clean: bool
    unknown: range


def check_key(reads: LedgerReads, signer: Signer, directory: Path) -> None:
    """Refuse to continue a log with another key. Raises OperatorError."""
    if reads.claimed_vkey != signer.vkey:
        raise OperatorError(
            f"the ledger in `{directory}` is signed with the key `{_short(reads.claimed_vkey)}`, the configured key is"
            f" `{_short(signer.vkey)}`: configure the former, or use an empty directory for the latter"
        )


def examine(
    connection: sqlite3.Connection,
    *,
    directory: Path,
    signer: Signer,
    now: Now,
    clock_tolerance: timedelta,
    witnessed: str | None,
    remembered: Remembered,
) -> BootState:
    """Check everything that can be checked quickly. Reads only.

    Args:
        witnessed: a checkpoint of this log that was kept elsewhere, newer than any restored backup; None when there is
            none. A log that is smaller or different is refused: it was rolled back.
        remembered: what the lock file knows of this log.

    Raises:
        IntegrityFailure: the log contradicts its checkpoint, itself, the lock file or the witnessed checkpoint.
        OperatorError: the signing key is another one, or `witnessed` is not a checkpoint of this log.
        ClockBehind: the clock is behind the newest entry by more than the tolerance.
    """
    reads = LedgerReads(connection)
    check_key(reads, signer, directory)
    size = reads.size
    epoch, clean, run_start = connection.execute("SELECT epoch, clean, run_start FROM log").fetchone()
    note, signed = _newest_checkpoint(connection, signer)
    if signed.size > size:
        _refuse(f"the newest checkpoint covers {signed.size} entries, the log has {size}: the newest were removed")
    if clean and signed.size != size:
        _refuse(f"the log was closed, but its newest checkpoint covers {signed.size} of {size} entries")
    tree = _signed_tree(reads, signed)
    _append_tail(connection, reads, tree, size)
    _check_remembered(reads, remembered, signer, size, epoch)
    if witnessed is not None:
        _check_witnessed(reads, witnessed, signer, size)
    last_time = _last_time(connection, size)
    if last_time is not None and last_time - now() > clock_tolerance:
        raise ClockBehind(
            f"the clock is {(last_time - now()).total_seconds():.0f} s behind the newest entry of the ledger in"
            f" `{directory}`: correct the clock and start again"
        )
    return BootState(
        tree=tree,
        checkpoint=note,
        signed_size=signed.size,
        last_time=last_time,
        epoch=epoch,
        clean=bool(clean),
        unknown=range(0) if clean else range(max(run_start, _last_batch(connection, size)), size),
    )


def _newest_checkpoint(connection: sqlite3.Connection, signer: Signer) -> tuple[str, Checkpoint]:
    row = connection.execute("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    if row is None:
        _refuse("the log has no checkpoint; every log starts with one")
    try:
        checkpoint = open_checkpoint(row[1], [signer.vkey])
    except NoteError as error:
        _refuse(f"the newest checkpoint (size {row[0]}) is not genuine: {error}")
    if (checkpoint.origin, checkpoint.size) != (signer.name, row[0]):
        _refuse(f"the checkpoint stored under size {row[0]} is for `{checkpoint.origin[:64]}` at {checkpoint.size}")
    return row[1], checkpoint


def _signed_tree(reads: LedgerReads, signed: Checkpoint) -> CompactRange:
    try:
        tree = reads.frontier(signed.size)
    except LookupError as error:
        _refuse(f"stored hashes are gone: {error}")
    if tree.root() != signed.root:
        _refuse(f"the stored hashes of the first {signed.size} entries do not lead to the signed root")
    return tree


def _append_tail(connection: sqlite3.Connection, reads: LedgerReads, tree: CompactRange, size: int) -> None:
    """Hash what no checkpoint covers yet: about a second of entries."""
    while tree.size < size:
        end = min(size, tree.size + _TAIL_PAGE)
        rows = connection.execute(
            "SELECT idx, leaf_hash, body FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx", (tree.size, end)
        ).fetchall()
        for index, stored, body in rows:
            if index != tree.size:
                break
            if leaf_hash(body) != stored:
                _refuse(f"entry {index} does not match its leaf hash")
            for level, place, root in tree.append(stored):
                if reads.tile_roots(level, place, place + 1) != [root]:
                    _refuse(f"the stored hash of tile {place} of level {level} is not that of its entries")
        if tree.size != end:
            _refuse(f"entry {tree.size} is missing")
    indexed = connection.execute("SELECT coalesce(max(idx) + 1, 0) FROM record_index").fetchone()[0]
    if indexed != size:
        _refuse(f"the record index ends at {indexed}, the log at {size}")


def _check_remembered(reads: LedgerReads, remembered: Remembered, signer: Signer, size: int, epoch: int) -> None:
    """Without its write-ahead log, or put back from a copy, a database is whole and knows nothing of what it lost."""
    lost = "the database was put back to an older state, or its write-ahead log is gone"
    if epoch < remembered.epoch:
        _refuse(f"the newest run that the database knows of is number {epoch}, the last was {remembered.epoch}: {lost}")
    if remembered.checkpoint is None:
        return
    try:
        checkpoint = open_checkpoint(remembered.checkpoint, [signer.vkey])
    except NoteError as error:
        _refuse(f"the checkpoint in `{LOCK}` is not one of this log ({error})")
    if checkpoint.size > size:
        _refuse(f"the log had {checkpoint.size} signed entries and now has {size}: {lost}")
    _signed_tree(reads, checkpoint)


def _check_witnessed(reads: LedgerReads, witnessed: str, signer: Signer, size: int) -> None:
    try:
        checkpoint = open_checkpoint(witnessed, [signer.vkey])
    except NoteError as error:
        raise OperatorError(f"the witnessed checkpoint is not one of this log: {error}") from error
    if checkpoint.size > size:
        _refuse(f"the log was witnessed with {checkpoint.size} entries and now has {size}: it was rolled back")
    if reads.frontier(checkpoint.size).root() != checkpoint.root:
        _refuse(f"the first {checkpoint.size} entries are not those that were witnessed: the log was rewritten")


def _last_batch(connection: sqlite3.Connection, size: int) -> int:
    row = connection.execute("SELECT batch FROM entry WHERE idx = ?", (size - 1,)).fetchone()
    return int(row[0]) if row else 0


def _last_time(connection: sqlite3.Connection, size: int) -> datetime | None:
    """Time of the newest entry, from its bytes and not from the index beside it."""
    row = connection.execute("SELECT leaf_hash, body FROM entry WHERE idx = ?", (size - 1,)).fetchone()
    if row is None:
        return None
    if leaf_hash(row[1]) != row[0]:
        _refuse(f"entry {size - 1} does not match its leaf hash")
    return parse_time(str(orjson.loads(row[1])["time"]))


def _short(vkey: str) -> str:
    key = VerifierKey.parse(vkey)
    return f"{key.name}+{key.key_id.hex()}"


def _refuse(what: str) -> NoReturn:
    raise IntegrityFailure(f"{what}; {REMEDY}")
