"""What a start has to finish before anybody is served: a change of a task that the last run could not write to its end.

The records of one change stand together in the log, those below first, and the log keeps a beginning of what was
queued. So at most one change is incomplete: the one that the newest record, but for the sidecar's own, is a part of.
"""

from __future__ import annotations

from authz_sidecar.engine.core import Core
from authz_sidecar.engine.lifecycle_records import Cascade
from authz_sidecar.engine.transition import Change, queue_change
from authz_sidecar.errors import TaskNotActive, TaskNotFound

# What a start writes about itself, and a clock that was set back.
_OWN = frozenset(
    {"sidecar_started", "sidecar_stopped", "recovery", "clock_step", "bundle_activated", "bundle_rejected"}
)


async def complete_cascade(core: Core) -> bool:
    """Complete the change that was cut short, if there was one. Returns whether something was written.

    Raises ClockBehind, LedgerUnavailable, Overloaded and DeadlineExceeded: the sidecar must not serve then.
    """
    cascade = _newest_cascade(core)
    if cascade is None:
        return False
    change = Change(event=cascade.event, by=cascade.by, note="completed at start: the last run ended in between")
    try:
        await queue_change(core, cascade.task_id, change, core.moment()).durable(core)
    except (TaskNotActive, TaskNotFound):
        # It was written to its end, or the deadline has passed meanwhile and the timer says so.
        return False
    return True


def _newest_cascade(core: Core) -> Cascade | None:
    index = core.ledger.size
    while index > 0:
        index -= 1
        entry = core.ledger.entry(index)
        if entry is None:
            return None
        if entry.record["type"] not in _OWN:
            return Cascade.of(entry.record)
    return None
