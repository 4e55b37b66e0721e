"""Records about outcomes that nobody reported, and about what a tool server says it executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from authz_sidecar.engine.recall import Recalled
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.strictjson import Json


def outcome_missing(*, record_id: str, now: datetime, decision: Recalled, decision_index: int) -> Record:
    """A permit whose outcome did not come in time. It has no actor: the sidecar noticed."""
    body = envelope(
        "outcome_missing",
        record_id=record_id,
        time=now,
        task={"id": decision.task_id},
        decision={"id": decision.decision_id, "index": decision_index},
        status="missing",
    )
    return Record(type="outcome_missing", body=body)


def receipt(
    *,
    record_id: str,
    now: datetime,
    subject: Subject,
    decision: Recalled,
    decision_index: int,
    claims: Mapping[str, Json],
    signature: Mapping[str, Json],
    contradictions: Iterable[str],
    jws: str,
) -> Record:
    """A tool server's signed word. The payload holds the signed text and the key, so that anyone can check it again."""
    body = envelope(
        "receipt",
        record_id=record_id,
        time=now,
        actor={
            "spiffe_id": str(subject.spiffe_id),
            "method": subject.method,
            "credential_sha256": subject.credential_sha256,
        },
        task={"id": decision.task_id},
        decision={"id": decision.decision_id, "index": decision_index},
        status=claims["status"],
        arguments_sha256=claims["arguments_sha256"],
        result_sha256=claims["result_sha256"],
        executed_at=claims["executed_at"],
        signature={"kid": signature["kid"], "source": signature["source"]},
        contradictions=list(contradictions),
    )
    return Record(type="receipt", body=body, payload={"jws": jws, "jwk": signature["jwk"]})
