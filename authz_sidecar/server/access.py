"""The closed table of RPCs: who may call each, and how large its request may be. An RPC missing here is not served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from authz_sidecar.errors import RoleRequired
from authz_sidecar.identity.subject import Subject


class Role(StrEnum):
    """What a verified caller may be. Every verified caller is a workload; the rest comes from configuration."""

    WORKLOAD = "workload"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    RESOURCE_SERVER = "resource_server"
    SECURITY_ENGINEER = "security_engineer"
    # Humans authenticate by another kind of credential, on another channel. No SVID ever has this role.
    HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call an RPC, and the longest serialized request in bytes."""

    roles: frozenset[Role]
    max_request_bytes: int


def _rule(*roles: Role, kib: int = 4) -> Rule:
    # INVARIANT: no role means nobody, so an empty row would be a bug and not an open door.
    if not roles:
        raise ValueError("an RPC needs at least one role")
    return Rule(frozenset(roles), kib * 1024)


_AGENT = Role.WORKLOAD
_EVIDENCE = (Role.AUDITOR, Role.OPERATOR)

TABLE: Mapping[str, Rule] = MappingProxyType(
    {
        "AuthorizationService/Authorize": _rule(_AGENT, kib=96),
        "AuthorizationService/AuthorizeBatch": _rule(_AGENT, kib=256),
        "AuthorizationService/AuthorizeStream": _rule(_AGENT, kib=96),
        "AuthorizationService/ListPermittedTools": _rule(_AGENT),
        "AuthorizationService/ReportOutcome": _rule(_AGENT),
        "AuthorizationService/ReportReceipt": _rule(Role.RESOURCE_SERVER, kib=16),
        "TaskService/StartTask": _rule(_AGENT, kib=96),
        "TaskService/DelegateTask": _rule(_AGENT, kib=96),
        "TaskService/GetTask": _rule(_AGENT),
        "TaskService/ListTasks": _rule(_AGENT),
        "TaskService/SuspendTask": _rule(_AGENT),
        "TaskService/ResumeTask": _rule(_AGENT),
        "TaskService/CompleteTask": _rule(_AGENT),
        "TaskService/CancelTask": _rule(_AGENT),
        "TokenService/IntrospectToken": _rule(Role.RESOURCE_SERVER, Role.OPERATOR, kib=16),
        # Everybody: an agent may give up a token of its own; the use case knows whose it is.
        "TokenService/RevokeToken": _rule(_AGENT, kib=16),
        "TokenService/WatchRevocations": _rule(Role.RESOURCE_SERVER, Role.OPERATOR),
        "TokenService/GetJwks": _rule(_AGENT),
        "ApprovalService/ListApprovals": _rule(Role.HUMAN),
        "ApprovalService/WatchApprovals": _rule(Role.HUMAN),
        "ApprovalService/Approve": _rule(Role.HUMAN),
        "ApprovalService/Deny": _rule(Role.HUMAN),
        "ApprovalService/OpenBreakGlass": _rule(Role.HUMAN, kib=96),
        "ApprovalService/CloseBreakGlass": _rule(Role.HUMAN),
        "ApprovalService/ReviewBreakGlass": _rule(Role.HUMAN, kib=16),
        "PolicyService/GetPolicyStatus": _rule(Role.SECURITY_ENGINEER, Role.OPERATOR, Role.AUDITOR),
        "PolicyService/Evaluate": _rule(Role.SECURITY_ENGINEER, kib=96),
        "PolicyService/ReloadPolicy": _rule(Role.SECURITY_ENGINEER, Role.OPERATOR),
        "LedgerService/GetRecord": _rule(*_EVIDENCE),
        "LedgerService/QueryRecords": _rule(*_EVIDENCE),
        "LedgerService/GetTimeline": _rule(*_EVIDENCE),
        "LedgerService/GetCheckpoint": _rule(*_EVIDENCE),
        "LedgerService/GetInclusionProof": _rule(*_EVIDENCE),
        "LedgerService/GetConsistencyProof": _rule(*_EVIDENCE),
        "AdminService/SuspendAgent": _rule(Role.OPERATOR),
        "AdminService/ResumeAgent": _rule(Role.OPERATOR),
        "AdminService/SuspendAll": _rule(Role.OPERATOR),
    }
)


class Roles:
    """The roles of verified callers, by SPIFFE ID."""

    def __init__(self, assignments: Mapping[Role, Iterable[str]]) -> None:
        """
        Args:
            assignments: SPIFFE IDs by role. `WORKLOAD` needs none: everyone verified has it.
        """
        by_id: dict[str, set[Role]] = {}
        for role, spiffe_ids in assignments.items():
            for spiffe_id in spiffe_ids:
                by_id.setdefault(spiffe_id, {Role.WORKLOAD}).add(role)
        self._by_id = {spiffe_id: frozenset(roles) for spiffe_id, roles in by_id.items()}

    def of(self, subject: Subject) -> frozenset[Role]:
        return self._by_id.get(str(subject.spiffe_id), _WORKLOAD_ONLY)

    def require(self, method: str, rule: Rule, subject: Subject) -> None:
        """Raises RoleRequired, naming the roles that would do."""
        if rule.roles.isdisjoint(self.of(subject)):
            needed = " or ".join(sorted(role.value for role in rule.roles))
            raise RoleRequired(f"`{method}` needs the role {needed}; `{subject.spiffe_id}` does not have it")


_WORKLOAD_ONLY = frozenset({Role.WORKLOAD})
