"""Facts and limits that the operator sets, as the use cases see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Facts and limits that the operator sets.

    Attributes:
        environment: name of the environment this sidecar serves.
        production: whether policies should treat it as production.
        default_task_ttl, max_task_ttl: duration of a task when none is asked for, and at most.
        append_deadline: how long a caller waits for its record to become durable.
        clock_tolerance: how far the wall clock may be behind the newest ledger entry.
        outcome_grace: how long after a token's expiry its outcome may still come before it is recorded as missing.
    """

    environment: str
    production: bool
    default_task_ttl: timedelta = timedelta(hours=1)
    max_task_ttl: timedelta = timedelta(hours=24)
    append_deadline: timedelta = timedelta(seconds=5)
    clock_tolerance: timedelta = timedelta(seconds=2)
    outcome_grace: timedelta = timedelta(minutes=5)
