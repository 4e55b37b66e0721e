"""Why a tool must not run. Whatever is raised, here or elsewhere, the answer is the same: it does not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from authz_sidecar.client.decision import ApprovalRequired, Decided, Denied, Policy


class AuthzError(Exception):
    """Base of every error that the client raises on purpose."""


class ToolDenied(AuthzError):
    """The sidecar said no. Asking again changes nothing until the task or the policy changes."""

    def __init__(self, decision: Denied) -> None:
        super().__init__(f"`{decision.tool}` denied: {_why(decision)}")
        self.decision = decision


class ApprovalPending(AuthzError):
    """A human has to approve this exact call first; ask again afterwards."""

    def __init__(self, decision: ApprovalRequired) -> None:
        waits = f"waits for approval `{decision.approval_id}`" if decision.approval_id else "needs a human's approval"
        super().__init__(f"`{decision.tool}` {waits}: {_why(decision)}")
        self.decision = decision


class TaskRefused(AuthzError):
    """Policy does not allow the task that was asked for."""

    def __init__(self, reason_code: str, policies: Sequence[Policy]) -> None:
        super().__init__(f"task refused: {_because(reason_code, policies)}")
        self.reason_code = reason_code
        self.policies = tuple(policies)


class SidecarUnavailable(AuthzError):
    """There is no answer: the sidecar cannot be reached, cannot answer, or answered nonsense.

    `reason` is upper snake case: the sidecar's own (`LEDGER_UNAVAILABLE`, `NOT_READY`, `OVERLOADED`, ...), a gRPC
    status (`UNAVAILABLE`, `DEADLINE_EXCEEDED`, ...), or the client's: `CREDENTIAL_UNUSABLE`, `INVALID_ANSWER`,
    `TOKEN_EXPIRED`, `CLIENT_CLOSED`, `FORKED`, `WRONG_EVENT_LOOP`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with one field of the request."""

    field: str
    description: str


class RequestRejected(AuthzError):
    """The request was wrong: malformed, not the caller's, or impossible in this state. Fix it before asking again.

    `reason` is the sidecar's (`INVALID_REQUEST`, `TASK_NOT_FOUND`, `UNAUTHENTICATED`, ...), a gRPC status, or the
    client's `ARGUMENTS_CHANGED`.
    """

    def __init__(self, reason: str, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)


def _why(decision: Decided) -> str:
    return _because(decision.reason_code, decision.policies)


def _because(reason_code: str, policies: Sequence[Policy]) -> str:
    reasons = "; ".join(policy.reason for policy in policies if policy.reason)
    return f"{reason_code} ({reasons})" if reasons else reason_code
