"""Read a decision record back into the values it was made from: the inverse of `records.decision` for answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit, PolicyRef, Verdict
from authz_sidecar.strictjson import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """A recorded decision. `body` is the whole record; `token` and `expires_at` are None unless it was a permit."""

    body: Mapping[str, Json]
    decision_id: str
    content_sha256: str
    agent: str
    task_id: str
    task_epoch: int
    verdict: Verdict
    policy_digest: str
    resource: str | None
    arguments_sha256: str
    token: Mapping[str, Json] | None
    expires_at: datetime | None


def decision_from_record(body: Mapping[str, Json]) -> Recalled:
    """Raises ValueError when the record is not a decision: it comes from our own ledger, so that would be a bug."""
    if body["type"] != "decision":
        raise ValueError(f"expected a decision record, got `{body['type']}`")
    token = body["token"]
    resource = body["resource"]
    task = _object(body["task"])
    return Recalled(
        body=body,
        decision_id=str(body["id"]),
        content_sha256=str(_object(body["request"])["sha256"]),
        agent=str(_object(body["actor"])["spiffe_id"]),
        task_id=str(task["id"]),
        task_epoch=int(str(task.get("epoch", 0))),
        verdict=verdict_from_record(body),
        policy_digest=str(_object(body["policy"])["sha256"]),
        resource=str(_object(resource)["id"]) if resource is not None else None,
        arguments_sha256=str(_object(body["tool"])["arguments_sha256"]),
        token=_object(token) if token is not None else None,
        expires_at=(datetime.fromtimestamp(int(str(_object(token)["exp"])), tz=UTC) if token is not None else None),
    )


def verdict_from_record(body: Mapping[str, Json]) -> Verdict:
    """The verdict as recorded, with the reasons as they read then."""
    determining = tuple(_policy_ref(_object(item)) for item in _array(body["determining"]))
    errors = tuple(str(item) for item in _array(body["errors"]))
    match body["outcome"]:
        case "permit":
            return Permit(determining=determining)
        case "approval_required":
            return ApprovalRequired(determining=determining, role=(), ttl=timedelta(0))
        case "deny":
            return Deny(reason_code=str(body["reason_code"]), determining=determining, errors=errors)
        case other:
            raise ValueError(f"unknown outcome `{other}` in a record")


def _policy_ref(item: Mapping[str, Json]) -> PolicyRef:
    tier = item["tier"]
    return PolicyRef(
        id=str(item["id"]),
        effect="permit" if item["effect"] == "permit" else "forbid",
        tier="hard" if tier == "hard" else "soft" if tier == "soft" else "",
        reason=str(item["reason"]),
        sha256=str(item["sha256"]),
    )


def _object(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise TypeError("a record's part has the wrong shape")
    return value


def _array(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise TypeError("a record's part has the wrong shape")
    return value
