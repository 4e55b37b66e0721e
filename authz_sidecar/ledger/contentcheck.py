"""Comparing what hangs off the entries with the entries: payloads, the record index and the state tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import sha256

import orjson

from authz_sidecar.ledger.findings import Finding
from authz_sidecar.ledger.projections import SCHEMA, Derived, apply_state, derive, state_differences
from authz_sidecar.ledger.records import member
from authz_sidecar.strictjson import Json

_MOST_FINDINGS = 1000


class ContentCheck:
    """Feed it all entries in order, then ask for its findings. Rebuilds the state tables in a temporary database."""

    def __init__(self) -> None:
        self.missing: list[int] = []
        self._findings: list[Finding] = []
        self._complete = True
        self._batch: list[Derived] = []
        self._batch_start = 0
        # An empty name is a private file that SQLite deletes: large logs do not have to fit into memory.
        self._rebuilt = sqlite3.connect("", isolation_level=None)
        self._rebuilt.executescript(f"{SCHEMA} BEGIN;")

    def add(
        self,
        index: int,
        body: bytes,
        payload: tuple[int | None, bytes | None, bytes | None],
        row: Sequence[object],
    ) -> None:
        """Take the next entry.

        Args:
            payload: the entry's reference into the payload table, the digest stored there, and the content.
            row: the record index's columns after `idx`; all None when there is no row.
        """
        if len(self._findings) > _MOST_FINDINGS:
            return
        try:
            record: dict[str, Json] = orjson.loads(body)
            derived = derive(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._report(index, f"entry {index} is not a record")
            self._complete = False
            return
        self._check_payload(index, record, *payload)
        if tuple(row) != derived.row:
            self._report(index, f"the record index of entry {index} is not what the entry says")
        self._batch.append(derived)
        if len(self._batch) == 1024:
            self._flush()

    def findings(self) -> list[Finding]:
        """What is wrong with single entries, after the last one."""
        return self._findings

    def state_findings(self, stored: sqlite3.Connection) -> list[Finding]:
        """What is wrong with the state tables. Means something only when nothing is wrong with the entries."""
        self._flush()
        if not self._complete:
            return []
        differences = state_differences(stored, self._rebuilt)
        return [Finding(first=index, last=index, detail=detail) for index, detail in differences]

    def close(self) -> None:
        self._rebuilt.close()

    def _flush(self) -> None:
        apply_state(self._rebuilt, self._batch_start, self._batch)
        self._batch_start += len(self._batch)
        self._batch.clear()

    def _check_payload(
        self,
        index: int,
        record: dict[str, Json],
        reference: int | None,
        digest: bytes | None,
        content: bytes | None,
    ) -> None:
        committed, size = member(record, "payload", "sha256"), member(record, "payload", "size")
        if committed is None:
            if reference is not None:
                self._report(index, f"entry {index} has a payload that it does not commit to")
            return
        if content is None or digest is None:
            self.missing.append(index)
            return
        actual = sha256(content).digest()
        if (actual.hex(), len(content)) != (committed, size) or digest != actual:
            self._report(index, f"the payload of entry {index} is not the one that the entry commits to")

    def _report(self, index: int, detail: str) -> None:
        self._findings.append(Finding.at(index, detail))
