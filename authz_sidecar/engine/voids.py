"""Permits that were recorded and never handed out: the ledger has to say so, and nothing may revive them.

INVARIANT: from the moment a permit is voided until its `grant_void` record is durable, its id is held here; after that
the ledger knows. At no moment does a repeated request find neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from authz_sidecar.engine import records
from authz_sidecar.errors import LedgerUnavailable, Overloaded
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Ledger, Position

_RETRY_SECONDS = 0.2


class Voids:
    """Writes a `grant_void` record for every permit whose caller was told that there is no answer."""

    def __init__(self, ledger: Ledger, *, new_id: Callable[[], str], record_time: Callable[[], datetime]) -> None:
        """`record_time`: time of a record that must be written whatever the clock says."""
        self._ledger = ledger
        self._new_id = new_id
        self._record_time = record_time
        self._held: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, decision_id: str) -> bool:
        """Whether the permit was voided, whether or not the record of that is durable yet."""
        return decision_id in self._held or self._ledger.is_void(decision_id)

    def add(
        self, appended: asyncio.Future[Position], *, subject: Subject, task_id: str, decision_id: str, reason: str
    ) -> None:
        """Void a permit whose record is, or may become, durable. A second time does nothing."""
        if decision_id not in self._held:
            self._held[decision_id] = asyncio.create_task(
                self._write(appended, subject, task_id, decision_id, reason), name=f"void-{decision_id}"
            )

    async def written(self, timeout_seconds: float) -> None:
        """Wait until all are durable, at most so long. For the end of the process."""
        if self._held:
            await asyncio.wait(self._held.values(), timeout=timeout_seconds)

    async def _write(
        self, appended: asyncio.Future[Position], subject: Subject, task_id: str, decision_id: str, reason: str
    ) -> None:
        await asyncio.wait((appended,))
        if appended.cancelled() or appended.exception() is not None:
            # It never became a permit.
            del self._held[decision_id]
            return
        while self._ledger.poisoned is None:
            record = records.grant_void(
                record_id=self._new_id(),
                now=self._record_time(),
                subject=subject,
                task_id=task_id,
                decision_id=decision_id,
                index=appended.result().index,
                reason=reason,
            )
            try:
                await self._ledger.append(record)
            except (LedgerUnavailable, Overloaded):
                # The disk is full or behind, or the ledger is closing; the permit stays void here until it is written.
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                del self._held[decision_id]
                return
