"""Limits of the ledger that the operator may set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOptions:
    """Limits.

    Attributes:
        max_queued, max_queued_bytes: records accepted and not yet durable; more are refused with Overloaded.
        max_batch, max_batch_bytes: most records and bytes in one transaction; one record always fits.
        checkpoint_interval: how often the growing log is signed.
        wal_idle_bytes: size of the write-ahead log from which it is moved into the database when there is a pause.
        wal_busy_bytes: the same without waiting for a pause. Larger means rarer and longer stalls, and more to read at
            the start after a crash.
        clock_tolerance: how far the clock may be behind the newest record before that counts as a step.
        busy_timeout: how long a commit waits for another process that has the database locked.
    """

    max_queued: int = 8192
    max_queued_bytes: int = 64 * 1024 * 1024
    max_batch: int = 256
    max_batch_bytes: int = 1024 * 1024
    checkpoint_interval: timedelta = timedelta(seconds=1)
    wal_idle_bytes: int = 1024 * 1024
    wal_busy_bytes: int = 64 * 1024 * 1024
    clock_tolerance: timedelta = timedelta(seconds=2)
    busy_timeout: timedelta = timedelta(seconds=5)
