"""Which records a reader asks for. Pure: a filter becomes a condition over the record index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryFilter:
    """Conditions that must all hold; a field left empty does not restrict.

    Attributes:
        types: record types.
        agent: SPIFFE ID of the record's actor.
        task_id, decision_id: of the record, or of the decision that it is about.
        tool: "server/name".
        resource: exact resource id.
        outcome: permit, deny or approval_required.
        reason_code: of a decision.
        jti: of the token that a decision granted.
        since: earliest time, inclusive; aware.
        until: latest time, exclusive; aware.
        after_index: only entries behind this index.
        limit: at most so many records; 0 for no limit.
    """

    types: tuple[str, ...] = ()
    agent: str = ""
    task_id: str = ""
    decision_id: str = ""
    tool: str = ""
    resource: str = ""
    outcome: str = ""
    reason_code: str = ""
    jti: str = ""
    since: datetime | None = None
    until: datetime | None = None
    after_index: int | None = None
    limit: int = 0


_EQUAL = ("agent", "task_id", "decision_id", "tool", "resource", "outcome", "reason_code", "jti")


def condition(wanted: QueryFilter) -> tuple[str, list[str]]:
    """SQL over `record_index` and its parameters; index range, time and limit are the reader's business."""
    clauses = [f"{column} = ?" for column in _EQUAL if getattr(wanted, column)]
    parameters = [getattr(wanted, column) for column in _EQUAL if getattr(wanted, column)]
    if wanted.types:
        clauses.append(f"type IN ({', '.join('?' * len(wanted.types))})")
        parameters.extend(wanted.types)
    return " AND ".join(clauses) or "TRUE", parameters
