"""Members that records of several types have in common, from the values the use cases hold to the ledger's JSON."""

from __future__ import annotations

from collections.abc import Mapping

from authz_sidecar.identity.subject import Subject
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit, Verdict
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import Task
from authz_sidecar.telemetry.tracing import TraceContext

OUTCOMES: Mapping[type, str] = {Permit: "permit", Deny: "deny", ApprovalRequired: "approval_required"}


def trace_part(trace: TraceContext | None) -> dict[str, Json] | None:
    return {"trace_id": trace.trace_id, "span_id": trace.span_id} if trace else None


def actor_part(subject: Subject) -> dict[str, Json]:
    return {
        "spiffe_id": str(subject.spiffe_id),
        "method": subject.method,
        "credential_sha256": subject.credential_sha256,
    }


def initiator_part(task: Task) -> dict[str, Json]:
    return {"kind": task.initiator.kind, "id": task.initiator.id, "verified": task.initiator.verified}


def policy_part(pdp: Pdp) -> dict[str, Json]:
    return {"sha256": pdp.digest, "engine": pdp.engine}


def verdict_part(verdict: Verdict) -> dict[str, Json]:
    return {
        "outcome": OUTCOMES[type(verdict)],
        "reason_code": verdict.reason_code,
        "determining": [
            {"id": ref.id, "effect": ref.effect, "tier": ref.tier, "reason": ref.reason, "sha256": ref.sha256}
            for ref in verdict.determining
        ],
        "errors": list(verdict.errors),
    }
