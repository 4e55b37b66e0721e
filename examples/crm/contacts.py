"""The CRM's data: contacts in SQLite, and a log of what the tools really did.

The log is the example's witness. A tool writes a line in the same transaction in which its body runs, so "the tool did
not run" can be looked up in the data and need not be believed from an error message.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contact (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT, phone TEXT, discount_percent REAL NOT NULL, tags TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS executed (number INTEGER PRIMARY KEY, tool TEXT NOT NULL, subject TEXT NOT NULL) STRICT;
INSERT OR IGNORE INTO contact VALUES
    ('c-1001', 'Ada Okafor', 'ada@okafor.example', '+44 20 7946 0101', 0, '["print"]'),
    ('c-1002', 'Ben Lindqvist', 'ben@lindqvist.example', NULL, 5, '["renewal"]'),
    ('vip-7', 'Carla Reyes', 'carla@reyes.example', '+34 91 123 4567', 30, '["board", "key-account"]');
"""
_CHANGEABLE = ("email", "phone", "discount_percent", "tags")


class NoSuchContact(LookupError):
    """No contact has this id."""


class Contacts:
    """The contacts of one database file. Every tool body is one method and one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make the tables and the sample contacts; rows that exist stay as they are."""
        with self._transaction() as database:
            database.executescript(_SCHEMA)

    def read(self, contact_id: str) -> dict[str, Any]:
        """Every field of a contact. Raises NoSuchContact."""
        with self._running("read_contact", contact_id) as database:
            return self._found(database, contact_id)

    def search(self, query: str, limit: int) -> list[dict[str, str]]:
        """Ids and names of the contacts whose name contains `query`, in any case."""
        with self._running("search_contacts", query) as database:
            rows = database.execute(
                "SELECT id, name FROM contact WHERE instr(lower(name), lower(?)) ORDER BY id LIMIT ?", (query, limit)
            )
            return [dict(row) for row in rows]

    def update(self, contact_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set the fields named in `changes` and return the contact. Raises NoSuchContact."""
        with self._running("update_contact", contact_id) as database:
            contact = self._found(database, contact_id) | {
                name: changes[name] for name in _CHANGEABLE if name in changes
            }
            database.execute(
                "UPDATE contact SET email = ?, phone = ?, discount_percent = ?, tags = ? WHERE id = ?",
                (*(contact[name] for name in _CHANGEABLE[:-1]), json.dumps(contact["tags"]), contact_id),
            )
            return contact

    def delete(self, contact_id: str) -> None:
        """Raises NoSuchContact."""
        with self._running("delete_contact", contact_id) as database:
            self._found(database, contact_id)
            database.execute("DELETE FROM contact WHERE id = ?", (contact_id,))

    def export_csv(self) -> str:
        """Every contact as CSV text."""
        with self._running("export_contacts", "csv") as database:
            text = io.StringIO()
            csv.writer(text).writerows(database.execute("SELECT * FROM contact ORDER BY id"))
            return text.getvalue()

    def export_json(self) -> str:
        """Every contact as JSON text."""
        with self._running("export_contacts", "json") as database:
            return json.dumps([dict(row) for row in database.execute("SELECT * FROM contact ORDER BY id")])

    def executed(self) -> list[tuple[str, str]]:
        """Every tool body that ran to its end, oldest first: the tool and what it was about."""
        with self._transaction() as database:
            rows = database.execute("SELECT tool, subject FROM executed ORDER BY number")
            return [(row["tool"], row["subject"]) for row in rows]

    @contextmanager
    def _running(self, tool: str, subject: str) -> Iterator[sqlite3.Connection]:
        with self._transaction() as database:
            database.execute("INSERT INTO executed (tool, subject) VALUES (?, ?)", (tool, subject))
            yield database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=5)
        database.row_factory = sqlite3.Row
        try:
            with database:
                yield database
        finally:
            database.close()

    def _found(self, database: sqlite3.Connection, contact_id: str) -> dict[str, Any]:
        row = database.execute("SELECT * FROM contact WHERE id = ?", (contact_id,)).fetchone()
        if row is None:
            raise NoSuchContact(f"no contact `{contact_id}`")
        return {**dict(row), "tags": json.loads(row["tags"])}
