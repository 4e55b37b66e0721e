"""Reads decisions off the wire. Only a whole, understood permit for the request that was sent is a permit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypedDict

from authz_sidecar.client.decision import ApprovalRequired, Decision, Denied, Permitted, Policy
from authz_sidecar.client.failures import invalid_answer
from authz_sidecar.v1 import authorization_pb2, common_pb2


class _Common(TypedDict):
    tool: str
    request_id: str
    decision_id: str
    policies: tuple[Policy, ...]
    policy_digest: str
    resource: str
    log: str
    index: int
    recalled: bool


def read_decision(
    request: authorization_pb2.AuthorizeRequest, response: authorization_pb2.AuthorizeResponse
) -> Decision:
    """The decision about `request`.

    An outcome that this client does not know is a denial, and so is a permit with an obligation: it knows none.
    Raises SidecarUnavailable for an answer to another request and for a permit without decision id, token or expiry.
    """
    if response.request_id != request.request_id:
        raise invalid_answer("a decision about another request")
    common = _common(request, response)
    if response.outcome == common_pb2.OUTCOME_DENY:
        return Denied(**common, reason_code=response.reason_code)
    if response.outcome == common_pb2.OUTCOME_APPROVAL_REQUIRED:
        return ApprovalRequired(**common, reason_code=response.reason_code, approval_id=response.approval_id)
    if response.outcome != common_pb2.OUTCOME_PERMIT:
        return Denied(**common, reason_code="unknown_outcome")
    if response.obligations:
        return Denied(**common, reason_code="unknown_obligation")
    token = response.token
    if not (response.decision_id and token.value and token.HasField("expires_at")):
        raise invalid_answer("a permit without its decision id, token or expiry")
    return Permitted(
        **common,
        reason_code=response.reason_code,
        token=token.value,
        audience=token.audience,
        expires_at=_expiry(token),
    )


def permits(response: authorization_pb2.AuthorizeResponse) -> bool:
    """True when the sidecar recorded a permit, usable or not, which therefore owes an outcome."""
    return response.outcome == common_pb2.OUTCOME_PERMIT and bool(response.decision_id)


def policies(determining: Iterable[common_pb2.DeterminingPolicy]) -> tuple[Policy, ...]:
    """The policies that decided."""
    return tuple(Policy(id=each.id, effect=each.effect, tier=each.tier, reason=each.reason) for each in determining)


def _common(request: authorization_pb2.AuthorizeRequest, response: authorization_pb2.AuthorizeResponse) -> _Common:
    return _Common(
        tool=f"{request.tool_server}/{request.tool_name}",
        request_id=request.request_id,
        decision_id=response.decision_id,
        policies=policies(response.determining_policies),
        policy_digest=response.policy_digest,
        resource=response.resource,
        log=response.position.log,
        index=response.position.index,
        recalled=response.recalled,
    )


def _expiry(token: authorization_pb2.Token) -> datetime:
    try:
        return token.expires_at.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid_answer("a token with an expiry that does not exist") from None
