"""A SQLite connection that obeys SQLite's rules, except that one statement fails.

Two ways to fail, as disks do: before anything happened, and after it happened ("failed but persisted").
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any


def sqlite_error(message: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def is_writer(uri: str) -> bool:
    """Whether the ledger opened this connection to write."""
    return uri.endswith("?mode=rw")


class Faults:
    """Decides which statement of the first connection that may write fails."""

    def __init__(self) -> None:
        self.count = 0
        self.fail_at: int | None = None
        self.fail_on: Callable[[str], bool] = lambda _: False
        self.persisted = False
        self.error = sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR)
        self._writer: sqlite3.Connection | None = None

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                return faults.run(self, sql, lambda: super(Connection, self).execute(sql, parameters))

            def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
                return faults.run(self, sql, lambda: super(Connection, self).executemany(sql, parameters))

        connection = sqlite3.connect(*arguments, factory=Connection, **options)
        if is_writer(arguments[0]) and self._writer is None:
            self._writer = connection
        return connection

    def run(self, connection: sqlite3.Connection, sql: str, statement: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if connection is not self._writer:
            return statement()
        self.count += 1
        if self.count == self.fail_at or self.fail_on(sql):
            if self.persisted:
                statement()
            raise self.error
        return statement()
