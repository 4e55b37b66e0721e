"""The error family. A denial is a value, never an exception: everything here means "no answer, no token".

Families say whose fault it is: the caller, its credential, the operator, the environment, ourselves.
`reason` is stable, upper snake case, and goes to the wire, the log and the metrics.
Messages name the field or the file, what was expected and what to do; they never hold a token, a key or arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar


class SidecarError(Exception):
    """Base of every error this project raises on purpose."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata or {}))


class CallerError(SidecarError):
    """The caller asked for something it should not have asked for in this form."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with one field: the field as named on the wire, what was expected and the remedy."""

    field: str
    description: str


class InvalidRequest(CallerError):
    """The request is malformed; `violations` names every field that is wrong."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"`{v.field}`: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        return cls((Violation(field, description),))


class TaskNotFound(CallerError):
    """No such task, or not the caller's: both look the same so that task ids cannot be probed."""

    reason = "TASK_NOT_FOUND"


class RecordNotFound(CallerError):
    """No record has this index or identifier."""

    reason = "RECORD_NOT_FOUND"


class RequestIdReused(CallerError):
    """The idempotency key was used before with other content."""

    reason = "REQUEST_ID_REUSED"


class FailedPrecondition(CallerError):
    """The request is well formed but the state does not admit it."""

    reason = "FAILED_PRECONDITION"


class TaskNotActive(FailedPrecondition):
    """The task's state does not admit the transition."""

    reason = "TASK_NOT_ACTIVE"


class GrantExpired(FailedPrecondition):
    """The recalled decision was a permit whose token is no longer valid; ask again under a new request id."""

    reason = "GRANT_EXPIRED"


class GrantRevoked(FailedPrecondition):
    """The permit was revoked, or its agent suspended, while it was being recorded: no token was released."""

    reason = "GRANT_REVOKED"


class AgentNotSuspended(FailedPrecondition):
    """Nothing to resume: the agent was never suspended."""

    reason = "AGENT_NOT_SUSPENDED"


class BehindCaller(FailedPrecondition):
    """The caller knows of a policy or a revocation that this sidecar does not; answering could be a stale permit."""

    reason = "BEHIND_CALLER"


class TaskChangeRefused(CallerError):
    """Policy does not let this caller change the state of this task. Recorded; the metadata names the policies."""

    reason = "TASK_CHANGE_REFUSED"


class CredentialError(SidecarError):
    """The caller's credential does not establish what the call needs."""


class Unauthenticated(CredentialError):
    """No valid workload identity. The message names the check that failed."""

    reason = "UNAUTHENTICATED"


class RoleRequired(CredentialError):
    """The identity is valid, but it may not call this RPC."""

    reason = "ROLE_REQUIRED"


class OperatorError(SidecarError):
    """Something the operator wrote or runs is wrong: configuration, policy bundle, keys, files."""

    reason = "OPERATOR_ERROR"


class Unavailable(SidecarError):
    """The sidecar cannot answer now. The caller may try again."""

    reason = "UNAVAILABLE"


class LedgerUnavailable(Unavailable):
    """The record could not be stored, so there is no answer."""

    reason = "LEDGER_UNAVAILABLE"


class NotReady(Unavailable):
    """No policy bundle is active yet, or the sidecar's own identity is missing."""

    reason = "NOT_READY"


class ClockBehind(Unavailable):
    """The wall clock is behind the newest ledger entry by more than the tolerance; lifetimes cannot be trusted."""

    reason = "CLOCK_BEHIND"


class Overloaded(SidecarError):
    """A limit on concurrent or queued work is reached. The caller should back off."""

    reason = "OVERLOADED"


class DeadlineExceeded(SidecarError):
    """The record was not durable in time. If it lands later, it is voided by a `grant_void` record."""

    reason = "DEADLINE_EXCEEDED"


class IntegrityFailure(SidecarError):
    """Evidence contradicts itself: an altered entry, a fork, a rollback. Never ordinary, never retried."""

    reason = "INTEGRITY_FAILURE"


class Unimplemented(SidecarError):
    """The RPC is part of the contract and not built yet."""

    reason = "UNIMPLEMENTED"
