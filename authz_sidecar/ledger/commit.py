"""One transaction: the entries of a batch, what hangs off them, and the proof that this process may still write.

Statements insert many rows at a time. SQLite releases and takes the interpreter lock at every step, and beside a busy
event loop each hand-over can cost milliseconds, so what counts is the number of statements, not of rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain

from authz_sidecar.ledger.checkpoint import Checkpoint, sign_checkpoint
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.prepare import PreparedEntry
from authz_sidecar.ledger.projections import INDEX_COLUMNS, apply_state
from authz_sidecar.ledger.records import SealedPayload
from authz_sidecar.ledger.tree import CompactRange

_WIDEST = 64


class StaleEpoch(Exception):
    """Another process took the ledger over; nothing was written."""


def begin(connection: sqlite3.Connection, epoch: int, batch_start: int) -> None:
    """Open the write transaction and check the fencing epoch in it.

    `batch_start` is kept so that a crash knows which records nobody may have been told of.
    Raises StaleEpoch, sqlite3.Error.
    """
    connection.execute("BEGIN IMMEDIATE")
    updated = connection.execute("UPDATE log SET batch_start = ? WHERE one = 1 AND epoch = ?", (batch_start, epoch))
    if updated.rowcount != 1:
        # The new owner needs the write lock.
        connection.execute("ROLLBACK")
        raise StaleEpoch


def insert_entries(connection: sqlite3.Connection, tree: CompactRange, entries: Sequence[PreparedEntry]) -> None:
    """Store `entries` from index `tree.size` on and grow `tree`, inside the caller's transaction."""
    first = tree.size
    entry_rows, payload_rows, index_rows = [], [], []
    for index, entry in enumerate(entries, first):
        payload_index = None
        if entry.payload is not None:
            payload_index = _shared_index(connection, entry.payload) if entry.payload.shared else None
            if payload_index is None:
                payload_index = index
                row = (index, entry.payload.sha256, entry.payload.shared, entry.payload.content)
                # A shared payload may come up again in this very batch, so it must be findable at once.
                if entry.payload.shared:
                    _insert(connection, "payload", 4, [row])
                else:
                    payload_rows.append(row)
        entry_rows.append((index, entry.leaf_hash, payload_index, entry.body))
        index_rows.append((index, *entry.derived.row))
        for node in tree.append(entry.leaf_hash):
            connection.execute("INSERT INTO node (level, idx, hash) VALUES (?, ?, ?)", node)
    _insert(connection, "entry", 4, entry_rows)
    _insert(connection, "payload", 4, payload_rows)
    _insert(connection, "record_index", 1 + len(INDEX_COLUMNS), index_rows)
    apply_state(connection, first, [entry.derived for entry in entries])


def insert_checkpoint(connection: sqlite3.Connection, tree: CompactRange, signer: Signer) -> str:
    """Sign the tree as it stands in the database and keep the note, inside the caller's transaction."""
    note = sign_checkpoint(Checkpoint(signer.name, tree.size, tree.root()), signer)
    # Ed25519 is deterministic: signing a size again gives the same note.
    connection.execute("INSERT OR REPLACE INTO checkpoint (size, note) VALUES (?, ?)", (tree.size, note))
    return note


def _shared_index(connection: sqlite3.Connection, payload: SealedPayload) -> int | None:
    row = connection.execute("SELECT idx FROM payload WHERE shared = 1 AND sha256 = ?", (payload.sha256,)).fetchone()
    return int(row[0]) if row else None


def _insert(connection: sqlite3.Connection, table: str, width: int, rows: Sequence[Iterable[object]]) -> None:
    """Insert in chunks of 64, 32, … 1 rows, so that few statements serve every length and stay prepared."""
    done = 0
    while done < len(rows):
        count = min(_WIDEST, 1 << (len(rows) - done).bit_length() - 1)
        connection.execute(_insert_sql(table, width, count), [*chain.from_iterable(rows[done : done + count])])
        done += count


@cache
def _insert_sql(table: str, width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * count)}"  # noqa: S608 - no value is part of the text
