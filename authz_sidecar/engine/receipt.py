"""A tool server's signed receipt: what it executed under a token, in its own word beside the agent's.

The signature is by the key of the tool server's SVID, or by a key that the operator configured for it. A receipt
proves who signed it; that the signer is the party the token was for follows from its knowing the token's `jti`, which
only the agent, the tool server and the evidence hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from authz_sidecar.engine import outcome_records
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.recall import Recalled, decision_from_record
from authz_sidecar.errors import InvalidRequest, RecordNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.strictjson import Json
from authz_sidecar.verifier import JwkSet, TokenRejected, VerificationKey
from authz_sidecar.verifier.jws import RECEIPT_TYPES, CompactJws, check_signature, parse_unverified

_HEX = re.compile(r"[0-9a-f]{64}")
_MEMBERS = frozenset({"iss", "jti", "arguments_sha256", "result_sha256", "status", "executed_at"})
_STATUSES = ("success", "failure")
# Of the tool server's clock against ours.
_LEEWAY_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptAnswer:
    """Where the receipt was recorded, and what in it contradicts the evidence."""

    position: Position
    contradictions: tuple[str, ...]
    recalled: bool


class ReportReceipt:
    """Verifies and records receipts."""

    def __init__(self, core: Core, keys: Mapping[str, JwkSet]) -> None:
        """`keys`: further keys of tool servers, by SPIFFE ID."""
        self._core = core
        self._keys = keys

    async def __call__(self, subject: Subject, jws: str) -> ReceiptAnswer:
        """The same receipt twice is recorded once.

        Raises InvalidRequest for what is not a receipt or not signed by the caller, RecordNotFound for a token that was
        never granted here, and whatever `Ledger.append` and `Core.wait_durable` raise.
        """
        core = self._core
        parsed, claims, signature = self._verified(subject, jws)
        stored = core.ledger.jti_entry(str(claims["jti"]))
        if stored is None:
            raise RecordNotFound("no such token was granted here")
        decision = decision_from_record(stored.record)
        async with core.turns.of(("receipt", decision.decision_id)) as turn:
            contradictions = _against_decision(decision, claims)
            for earlier in core.ledger.receipts(decision.decision_id):
                body = earlier.record
                if _content(body) == _content(claims) and _signer(body) == str(subject.spiffe_id):
                    known = body["contradictions"]
                    return ReceiptAnswer(
                        position=Position(core.ledger.origin, earlier.index, earlier.leaf_hash),
                        contradictions=tuple(map(str, known if isinstance(known, list) else ())),
                        recalled=True,
                    )
                contradictions.add("receipt_before_differs")
            record = outcome_records.receipt(
                record_id=core.new_id(),
                now=core.moment(),
                subject=subject,
                decision=decision,
                decision_index=stored.index,
                claims=claims,
                signature={**signature, "kid": parsed.kid},
                contradictions=sorted(contradictions),
                jws=jws,
            )
            turn.until(appended := core.ledger.append(record))
            position = await core.wait_durable(appended)
        core.metrics.count_receipt(contradicted=bool(contradictions))
        return ReceiptAnswer(position=position, contradictions=tuple(sorted(contradictions)), recalled=False)

    def _verified(self, subject: Subject, jws: str) -> tuple[CompactJws, dict[str, Json], dict[str, Json]]:
        """The receipt, its claims, and the key that signed it."""
        try:
            parsed = parse_unverified(jws, types=RECEIPT_TYPES)
            key, source = self._key(subject, parsed.kid)
            if key is None:
                raise InvalidRequest.of("jws", "header `kid`: not the key of the caller's SVID, nor configured for it")
            check_signature(parsed.signing_input, parsed.signature, key)
        except TokenRejected as rejected:
            raise InvalidRequest.of("jws", rejected.message) from None
        problem = _problem(parsed.claims, str(subject.spiffe_id))
        if problem:
            raise InvalidRequest.of("jws", problem)
        return parsed, parsed.claims, {"source": source, "jwk": key.to_jwk()}

    def _key(self, subject: Subject, kid: str) -> tuple[VerificationKey | None, str]:
        if subject.p256_key is not None and (own := VerificationKey.of(subject.p256_key)).kid == kid:
            return own, "svid"
        configured = self._keys.get(str(subject.spiffe_id))
        return (configured.find(kid) if configured is not None else None), "configured"


def _problem(claims: Mapping[str, Json], caller: str) -> str:
    """What is wrong with the claims; empty when nothing is."""
    if claims.keys() != _MEMBERS:
        return f"claims: expected exactly {', '.join(sorted(_MEMBERS))}"
    jti, executed_at = claims["jti"], claims["executed_at"]
    checks = (
        (claims["iss"] == caller, f"`iss`: expected the caller, `{caller}`"),
        (isinstance(jti, str) and 0 < len(jti) <= 128, "`jti`: expected the identifier of the token"),
        (_is_digest(claims["arguments_sha256"]), "`arguments_sha256`: expected 64 lower-case hex digits"),
        (
            claims["result_sha256"] is None or _is_digest(claims["result_sha256"]),
            "`result_sha256`: expected 64 lower-case hex digits or null",
        ),
        (claims["status"] in _STATUSES, f"`status`: expected {' or '.join(_STATUSES)}"),
        (type(executed_at) is int and executed_at >= 0, "`executed_at`: expected whole seconds since 1970"),
    )
    return next((problem for holds, problem in checks if not holds), "")


def _is_digest(value: Json) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _against_decision(decision: Recalled, claims: Mapping[str, Json]) -> set[str]:
    contradictions: set[str] = set()
    if claims["arguments_sha256"] != decision.arguments_sha256:
        contradictions.add("arguments_differ")
    token, executed_at = decision.token or {}, int(str(claims["executed_at"]))
    issued_at, expires_at = int(str(token.get("iat", 0))), int(str(token.get("exp", 0)))
    if not issued_at - _LEEWAY_SECONDS <= executed_at <= expires_at + _LEEWAY_SECONDS:
        contradictions.add("executed_outside_token_life")
    return contradictions


def _content(members: Mapping[str, Json]) -> tuple[Json, ...]:
    return tuple(members.get(name) for name in ("arguments_sha256", "result_sha256", "status", "executed_at"))


def _signer(record: Mapping[str, Json]) -> str:
    actor = record.get("actor")
    return str(actor.get("spiffe_id")) if isinstance(actor, dict) else ""
