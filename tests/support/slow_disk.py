"""A disk under the ledger's writer that hangs, or is full, when it is told to."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

from tests.support.faulty_sqlite import is_writer, sqlite_error

_LONGEST_HANG_SECONDS = 20


class SlowDisk:
    """Give `connect` to `Ledger.open`. Only commits of the ledger's writer are slow."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._hanging = False
        self._allowed = 0
        self._full = False
        self._writer: sqlite3.Connection | None = None

    def hang(self) -> None:
        """From now on commits wait."""
        with self._changed:
            self._hanging, self._allowed = True, 0

    def let_through(self, commits: int = 1) -> None:
        """Let so many of the waiting commits happen."""
        with self._changed:
            self._allowed += commits
            self._changed.notify_all()

    def resume(self) -> None:
        with self._changed:
            self._hanging = False
            self._changed.notify_all()

    def fill(self, full: bool = True) -> None:
        """Commits fail as SQLite fails on a full disk, or no longer."""
        with self._changed:
            self._full = full

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                if sql == "COMMIT" and self is disk._writer:
                    disk._before_commit()
                return super().execute(sql, parameters)

        connection = sqlite3.connect(*arguments, factory=Connection, **options)
        if is_writer(arguments[0]) and self._writer is None:
            self._writer = connection
        return connection

    def _before_commit(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._hanging or self._allowed > 0, _LONGEST_HANG_SECONDS)
            self._allowed = max(0, self._allowed - 1)
            if self._full:
                raise sqlite_error("database or disk is full", sqlite3.SQLITE_FULL)
