"""Authority only shrinks along a delegation: the typed comparison of a child task with its parent. Pure.

Asked when a child is made, and again whenever it is used: what the words mean (the order of the data classes) may have
changed since, and a chain in our own store that does not hold together must not be believed either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from authz_sidecar.task.model import Scope, Task, TaskState
from authz_sidecar.task.pattern import covers

# A root task has depth 0. Deeper is refused, never truncated: a chain that was cut short would hide who is behind it.
MAX_DEPTH = 4

Level = Callable[[str], int | None]


class Excess(StrEnum):
    """A way in which a child would have more than its parent. Policies know them by these names."""

    TOOLS = "tools"
    RESOURCES = "resources"
    CEILING = "ceiling"
    EXPIRY = "expiry"
    DEPTH = "depth"
    SELF = "self"
    CYCLE = "cycle"
    LINEAGE = "lineage"


def child_of(
    parent: Task, *, task_id: str, agent: str, purpose: str, scope: Scope, now: datetime, end: datetime
) -> Task:
    """The child task of a delegation, not yet compared with its parent.

    The chain, the initiator and the environment follow from the parent: nobody who asks can supply them.
    """
    return replace(
        parent,
        id=task_id,
        agent=agent,
        purpose=purpose,
        scope=scope,
        started_at=now,
        expires_at=end,
        state=TaskState.ACTIVE,
        epoch=1,
        ended_at=None,
        held_by=None,
        parent_id=parent.id,
        depth=parent.depth + 1,
        delegation=(*parent.delegation, parent.hop),
    )


def excess(child: Task, parent: Task, level: Level) -> frozenset[Excess]:
    """Every way in which the child has more than its parent; empty when authority shrinks or stays.

    Args:
        level: of a data class, None for one that does not exist, which is then above everything.
    """
    ceiling, highest = level(child.scope.ceiling), level(parent.scope.ceiling)
    above = {hop.agent for hop in parent.delegation}
    if parent.initiator.verified:
        # It stands for itself at the root of every chain.
        above.add(parent.initiator.id)
    holds = {
        Excess.TOOLS: bool(child.scope.tools) and child.scope.tools <= parent.scope.tools,
        Excess.RESOURCES: covers(parent.scope.resources, child.scope.resources),
        Excess.CEILING: ceiling is not None and highest is not None and ceiling <= highest,
        Excess.EXPIRY: child.expires_at <= parent.expires_at,
        Excess.DEPTH: child.depth <= MAX_DEPTH,
        Excess.SELF: child.agent != parent.agent,
        Excess.CYCLE: child.agent not in above,
        Excess.LINEAGE: _descends(child, parent),
    }
    return frozenset(kind for kind, held in holds.items() if not held)


def chain_shrinks(chain: Sequence[Task], level: Level) -> bool:
    """Whether authority grows nowhere along a chain, the root first. A chain of one task has nothing to compare."""
    return all(not excess(child, parent, level) for parent, child in pairwise(chain))


def _descends(child: Task, parent: Task) -> bool:
    return (
        child.parent_id == parent.id
        and child.depth == parent.depth + 1
        and child.delegation == (*parent.delegation, parent.hop)
        and child.initiator == parent.initiator
        and child.environment == parent.environment
    )
