"""One transaction: the entries of a batch, what hangs off them, and the proof that this process may still write."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain

from authz_sidecar.ledger.checkpoint import Checkpoint, sign_checkpoint
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.prepare import PreparedEntry
from authz_sidecar.ledger.projections import apply_rare
from authz_sidecar.ledger.schema import INCOMING_COLUMNS
from authz_sidecar.ledger.tree import CompactRange

# Rows in one statement. Each width stays prepared, so that a batch is one statement up to here.
_WIDEST = 64

_NO_PAYLOAD = (None, None, None)


class StaleEpoch(Exception):
    """Another process took the ledger over; nothing was written."""


def insert_entries(
    connection: sqlite3.Connection, epoch: int, tree: CompactRange, entries: Sequence[PreparedEntry]
) -> None:
    """Store `entries` from index `tree.size` on and grow `tree`, inside the caller's transaction.

    Raises StaleEpoch, sqlite3.Error.
    """
    first = tree.size
    rows = [_incoming_row(index, epoch, first, entry) for index, entry in enumerate(entries, first)]
    for begin in range(0, len(rows), _WIDEST):
        chunk = rows[begin : begin + _WIDEST]
        try:
            connection.execute(_insert_sql(len(chunk)), [*chain.from_iterable(chunk)])
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_TRIGGER:
                raise
            # The new owner needs the write lock.
            connection.execute("ROLLBACK")
            raise StaleEpoch from error
    for index, entry in enumerate(entries, first):
        for node in tree.append(entry.leaf_hash):
            connection.execute("INSERT INTO node (level, idx, hash) VALUES (?, ?, ?)", node)
        apply_rare(connection, index, entry.derived)


def insert_checkpoint(connection: sqlite3.Connection, epoch: int, tree: CompactRange, signer: Signer) -> str:
    """Sign the tree as it stands in the database and keep the note, inside the caller's transaction.

    Raises StaleEpoch, sqlite3.Error.
    """
    note = sign_checkpoint(Checkpoint(signer.name, tree.size, tree.root()), signer)
    # Ed25519 is deterministic: signing a size again gives the same note.
    stored = connection.execute(
        "INSERT OR REPLACE INTO checkpoint (size, note) SELECT ?, ? FROM log WHERE epoch = ?", (tree.size, note, epoch)
    )
    if stored.rowcount != 1:
        connection.execute("ROLLBACK")
        raise StaleEpoch
    return note


def _incoming_row(index: int, epoch: int, batch: int, entry: PreparedEntry) -> tuple[object, ...]:
    """In the order of INCOMING_COLUMNS."""
    payload, call = entry.payload, entry.derived.call
    return (
        index,
        epoch,
        batch,
        entry.leaf_hash,
        entry.body,
        *((payload.sha256, int(payload.shared), payload.content) if payload is not None else _NO_PAYLOAD),
        call.read_level if call is not None else None,
        entry.derived.owed_from,
        *entry.derived.row,
    )


@cache
def _insert_sql(rows: int) -> str:
    row = f"({', '.join('?' * len(INCOMING_COLUMNS))})"
    return f"INSERT INTO incoming VALUES {', '.join([row] * rows)}"  # noqa: S608 - no value is part of the text
