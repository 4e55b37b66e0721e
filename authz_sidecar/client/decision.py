"""What the sidecar decided about one tool call, as values. A denial is an answer, not an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy that decided: its `@id`, "permit" or "forbid", "hard", "soft" or "", and its reason for humans."""

    id: str
    effect: str
    tier: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What every decision has. `log` and `index` say where its record stands in the sidecar's ledger."""

    tool: str
    request_id: str
    decision_id: str
    reason_code: str
    policies: tuple[Policy, ...]
    policy_digest: str
    resource: str
    log: str
    index: int
    recalled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Permitted(Decided):
    """The call may be made once, now, with this token. Whoever holds it owes the sidecar an outcome.

    `token` is the compact JWS for `audience`; it stops being valid at `expires_at` (aware UTC). Never log it.
    """

    token: str = field(repr=False)
    audience: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied(Decided):
    """The call must not be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequired(Decided):
    """The call must not be made until a human has approved exactly it, under `approval_id`."""

    approval_id: str


Decision: TypeAlias = Permitted | Denied | ApprovalRequired
