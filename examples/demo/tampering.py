"""What somebody with write access to the ledger's file could do, done to a copy of it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path


def change_one_byte(ledger: Path, copy: Path, *, entry: int, written: str, altered: str) -> None:
    """Copy the ledger of a stopped sidecar, and put `altered` where `written` stands in one entry.

    The two texts have the same length and differ in one byte; nothing else of the file changes. Raises ValueError when
    they do not, or when the entry does not hold the text exactly once.
    """
    old, new = written.encode(), altered.encode()
    if len(old) != len(new) or sum(a != b for a, b in zip(old, new, strict=True)) != 1:
        raise ValueError("expected two texts that differ in exactly one byte")
    shutil.copytree(ledger, copy)
    database = copy / "ledger.db"
    before = _body(database, entry)
    if before.count(old) != 1:
        raise ValueError(f"expected `{written}` exactly once in entry {entry}")
    raw = database.read_bytes()
    # The text also stands in indexes, and perhaps in other entries: the place is found by what is around it.
    offset = raw.index(before) + before.index(old)
    database.write_bytes(raw[:offset] + new + raw[offset + len(old) :])
    if _body(database, entry) != before.replace(old, new):
        raise ValueError(f"the change did not reach entry {entry}")


def _body(database: Path, entry: int) -> bytes:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return bytes(connection.execute("SELECT body FROM entry WHERE idx = ?", (entry,)).fetchone()[0])
    finally:
        connection.close()
