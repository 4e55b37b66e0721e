"""Step 2 of the decision cycle: what callers ask for, bounded and parsed before anything else looks at it.

Each constructor takes the raw fields of a request and returns a frozen command, or raises InvalidRequest naming every
field that is wrong. Nothing here knows who the caller is or touches storage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from authz_sidecar.errors import InvalidRequest, Violation
from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, SpiffeId
from authz_sidecar.ledger.canonical import canonical
from authz_sidecar.policy.pattern import MalformedResource, check_pattern
from authz_sidecar.strictjson import Json, MalformedJson, parse_object
from authz_sidecar.task.model import Initiator, Scope
from authz_sidecar.telemetry.tracing import TraceContext
from authz_sidecar.verifier import arguments_sha256

_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOOL = re.compile(r"[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,64}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256_BYTES = 32
_MAX_DEPTH = 32
_MAX_RESOURCE = 512
_MAX_AUDIENCE = 512
_MAX_TOOLS = 256
_MAX_PATTERNS = 64

ExecutionStatus = Literal["success", "failure", "timeout", "not_attempted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """Operator-set bounds. Sizes in bytes."""

    max_arguments_bytes: int = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizeCommand:
    """One tool call to decide about.

    Attributes:
        arguments: the parsed arguments; None when the caller sent only their digest.
        arguments_sha256: SHA-256 over their RFC 8785 form, lower-case hex.
        content_sha256: digest of everything that makes two requests the same request; the trace is not part of it.
    """

    request_id: str
    task_id: str
    tool: str
    arguments: dict[str, Json] | None
    arguments_sha256: str
    declared_resource: str | None
    audience: str | None
    justification: str
    tool_call_id: str
    proof_key_thumbprint: str | None
    min_policy_digest: str | None
    at_least_epoch: int
    trace: TraceContext | None
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTaskCommand:
    """A task to start. `initiator` is a claim of the caller unless a credential was verified."""

    request_id: str
    purpose: str
    objective: str
    initiator: Initiator
    scope: Scope
    ttl: timedelta | None
    trace: TraceContext | None
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateTaskCommand:
    """Part of a task to give to another agent. `agent` is its SPIFFE ID; `ttl` None for as long as the parent may."""

    request_id: str
    parent_task_id: str
    agent: str
    purpose: str
    scope: Scope
    ttl: timedelta | None
    trace: TraceContext | None
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutcomeCommand:
    """How a permitted call ended. Digests are lower-case hex, None when not given."""

    decision_id: str
    status: ExecutionStatus
    result_sha256: str | None
    arguments_sha256: str | None
    detail: str
    trace: TraceContext | None


class _Check:
    """Collects violations, so that a caller learns of every wrong field at once."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def that(self, holds: bool, field: str, description: str) -> bool:
        if not holds:
            self._violations.append(Violation(field, description))
        return holds

    def text(self, field: str, value: str, longest: int, *, shortest: int = 0) -> str:
        printable = not any(ord(char) < 0x20 and char not in "\n\t" for char in value)
        self.that(
            shortest <= len(value) <= longest and printable,
            field,
            f"expected {shortest} to {longest} characters without control characters, got {len(value)}",
        )
        return value

    def matches(self, field: str, value: str, pattern: re.Pattern[str], expected: str) -> str:
        self.that(pattern.fullmatch(value) is not None, field, f"expected {expected}, got `{value[:64]!r}`")
        return value

    def identifier(self, field: str, value: str) -> str:
        return self.matches(field, value, _IDENTIFIER, "1 to 128 characters of `[A-Za-z0-9._:-]`")

    def digest(self, field: str, value: bytes) -> str | None:
        self.that(len(value) in (0, _SHA256_BYTES), field, f"expected 32 bytes or none, got {len(value)}")
        return value.hex() or None

    def pattern(self, field: str, value: str) -> None:
        try:
            check_pattern(value)
        except MalformedResource as error:
            self.that(False, field, f"{error}, for example `crm:contact/*`")

    def spiffe_id(self, field: str, value: str) -> None:
        try:
            SpiffeId.parse_workload(value)
        except MalformedSpiffeId as error:
            self.that(False, field, f"expected the SPIFFE ID of a workload: {error}")

    def trace(self, value: str) -> TraceContext | None:
        """A malformed traceparent restarts the trace (W3C Trace Context 3.2.2.3); it never fails a call."""
        return TraceContext.parse(value) if value else None

    def done(self) -> None:
        if self._violations:
            raise InvalidRequest(tuple(self._violations))


def authorize_command(
    *,
    request_id: str,
    task_id: str,
    tool_server: str,
    tool_name: str,
    arguments_json: bytes | None,
    arguments_digest: bytes | None,
    resource: str,
    audience: str,
    justification: str,
    tool_call_id: str,
    traceparent: str,
    proof_key_thumbprint: str,
    min_policy_digest: str,
    at_least_epoch: int,
    limits: CommandLimits,
) -> AuthorizeCommand:
    """Bound and parse an Authorize request. Raises InvalidRequest."""
    check = _Check()
    check.identifier("request_id", request_id)
    check.identifier("task_id", task_id)
    check.matches("tool_server", tool_server, _NAME, "1 to 64 characters of `[A-Za-z0-9._-]`")
    check.matches("tool_name", tool_name, _NAME, "1 to 64 characters of `[A-Za-z0-9._-]`")
    check.text("resource", resource, _MAX_RESOURCE)
    check.text("audience", audience, _MAX_AUDIENCE)
    check.text("justification", justification, 1024)
    check.text("tool_call_id", tool_call_id, 128)
    if proof_key_thumbprint:
        check.matches("proof_key_thumbprint", proof_key_thumbprint, _THUMBPRINT, "a base64url SHA-256 of 43 characters")
    if min_policy_digest:
        check.matches("min_policy_digest", min_policy_digest, _DIGEST, "`sha256:` and 64 hex digits")
    arguments: dict[str, Json] | None = None
    sha256 = ""
    if arguments_json is not None:
        try:
            arguments = parse_object(arguments_json, max_bytes=limits.max_arguments_bytes, max_depth=_MAX_DEPTH)
            sha256 = arguments_sha256(arguments).hex()
        except MalformedJson as error:
            check.that(False, "arguments_json", f"{error}; send one JSON object as UTF-8")
    elif arguments_digest is not None:
        sha256 = check.digest("arguments_sha256", arguments_digest) or ""
        check.that(bool(sha256), "arguments_sha256", "expected 32 bytes, got none")
    else:
        check.that(False, "arguments", "send `arguments_json` (an empty object is `{}`) or `arguments_sha256`")
    trace = check.trace(traceparent)
    check.done()
    content = canonical(
        [
            *(task_id, tool_server, tool_name, sha256, arguments is None),
            *(resource, audience, justification, tool_call_id, proof_key_thumbprint),
        ]
    )
    return AuthorizeCommand(
        request_id=request_id,
        task_id=task_id,
        tool=f"{tool_server}/{tool_name}",
        arguments=arguments,
        arguments_sha256=sha256,
        declared_resource=resource or None,
        audience=audience or None,
        justification=justification,
        tool_call_id=tool_call_id,
        proof_key_thumbprint=proof_key_thumbprint or None,
        min_policy_digest=min_policy_digest or None,
        at_least_epoch=at_least_epoch,
        trace=trace,
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def start_task_command(
    *,
    request_id: str,
    purpose: str,
    objective: str,
    initiator_kind: Literal["human", "workflow"] | None,
    initiator_id: str,
    tools: Sequence[str],
    resources: Sequence[str],
    ceiling: str,
    ttl: timedelta | None,
    traceparent: str,
    class_exists: Callable[[str], bool],
) -> StartTaskCommand:
    """Bound and parse a StartTask request. Raises InvalidRequest."""
    check = _Check()
    check.identifier("request_id", request_id)
    check.text("purpose", purpose, 200, shortest=1)
    check.text("objective", objective, 4096)
    check.text("initiator.id", initiator_id, 256, shortest=1)
    check.that(initiator_kind is not None, "initiator.kind", "expected INITIATOR_KIND_HUMAN or INITIATOR_KIND_WORKFLOW")
    scope = _scope(check, tools, resources, ceiling, class_exists)
    if ttl is not None:
        check.that(ttl >= timedelta(seconds=1), "ttl", "expected at least one second")
    trace = check.trace(traceparent)
    check.done()
    seconds = int(ttl.total_seconds() * 1000) if ttl is not None else None
    content = canonical(
        [purpose, objective, str(initiator_kind), initiator_id, [*sorted(tools)], list(resources), ceiling, seconds]
    )
    return StartTaskCommand(
        request_id=request_id,
        purpose=purpose,
        objective=objective,
        initiator=Initiator(kind=initiator_kind or "workflow", id=initiator_id, verified=False),
        scope=scope,
        ttl=ttl,
        trace=trace,
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def delegate_task_command(
    *,
    request_id: str,
    parent_task_id: str,
    agent: str,
    purpose: str,
    tools: Sequence[str],
    resources: Sequence[str],
    ceiling: str,
    ttl: timedelta | None,
    traceparent: str,
    class_exists: Callable[[str], bool],
) -> DelegateTaskCommand:
    """Bound and parse a DelegateTask request. Raises InvalidRequest."""
    check = _Check()
    check.identifier("request_id", request_id)
    check.identifier("parent_task_id", parent_task_id)
    check.spiffe_id("agent", agent)
    check.text("purpose", purpose, 200, shortest=1)
    scope = _scope(check, tools, resources, ceiling, class_exists)
    if ttl is not None:
        check.that(ttl >= timedelta(seconds=1), "ttl", "expected at least one second")
    trace = check.trace(traceparent)
    check.done()
    milliseconds = int(ttl.total_seconds() * 1000) if ttl is not None else None
    content = canonical(
        ["delegate_task", parent_task_id, agent, purpose, [*sorted(tools)], list(resources), ceiling, milliseconds]
    )
    return DelegateTaskCommand(
        request_id=request_id,
        parent_task_id=parent_task_id,
        agent=agent,
        purpose=purpose,
        scope=scope,
        ttl=ttl,
        trace=trace,
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def report_outcome_command(
    *,
    decision_id: str,
    status: ExecutionStatus | None,
    result_sha256: bytes,
    arguments_sha256: bytes,
    detail: str,
    traceparent: str,
) -> ReportOutcomeCommand:
    """Bound and parse a ReportOutcome request. Raises InvalidRequest."""
    check = _Check()
    check.identifier("decision_id", decision_id)
    check.that(status is not None, "status", "expected SUCCESS, FAILURE, TIMEOUT or NOT_ATTEMPTED")
    result = check.digest("result_sha256", result_sha256)
    arguments = check.digest("arguments_sha256", arguments_sha256)
    check.text("detail", detail, 512)
    trace = check.trace(traceparent)
    check.done()
    return ReportOutcomeCommand(
        decision_id=decision_id,
        status=status or "failure",
        result_sha256=result,
        arguments_sha256=arguments,
        detail=detail,
        trace=trace,
    )


def task_reference(task_id: str, *, note_field: str = "", note: str = "") -> tuple[str, str]:
    """Bound a task id and the free text that comes with a transition. Raises InvalidRequest."""
    check = _Check()
    check.identifier("task_id", task_id)
    if note_field:
        check.text(note_field, note, 512)
    check.done()
    return task_id, note


def _scope(
    check: _Check, tools: Sequence[str], resources: Sequence[str], ceiling: str, class_exists: Callable[[str], bool]
) -> Scope:
    _bounded_set(check, "scope.tools", tools, _MAX_TOOLS)
    for tool in tools:
        check.matches("scope.tools", tool, _TOOL, "`server/name`")
    _bounded_set(check, "scope.resources", resources, _MAX_PATTERNS)
    for pattern in resources:
        check.pattern("scope.resources", pattern)
    check.that(class_exists(ceiling), "scope.ceiling", f"`{ceiling[:64]}` is not a data class of the active bundle")
    return Scope(tools=frozenset(tools), resources=tuple(resources), ceiling=ceiling)


def _bounded_set(check: _Check, field: str, values: Iterable[str], most: int) -> None:
    listed = list(values)
    check.that(1 <= len(listed) <= most, field, f"expected 1 to {most} entries, got {len(listed)}")
    check.that(len(set(listed)) == len(listed), field, "expected no entry twice")
