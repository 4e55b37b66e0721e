"""Is this token active now? The shape of RFC 7662: everything that is not active looks the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from authz_sidecar.engine.core import Core
from authz_sidecar.engine.lineage import stands
from authz_sidecar.engine.recall import decision_from_record
from authz_sidecar.engine.revocations import token_identity
from authz_sidecar.strictjson import Json
from authz_sidecar.verifier import TokenRejected

# Returns the claims of a token that this issuer signed and that has not expired; raises TokenRejected otherwise.
ReadToken = Callable[[str], dict[str, Json]]


@dataclass(frozen=True, slots=True)
class Introspection:
    """`claims` is None exactly when the token is not active."""

    claims: dict[str, Json] | None
    revocation_epoch: int


class IntrospectToken:
    """Active: signed here, not expired, neither voided nor revoked, and its task and all above it stand as they did."""

    def __init__(self, core: Core, read: ReadToken) -> None:
        self._core = core
        self._read = read

    def __call__(self, token: str) -> Introspection:
        """Never raises for what is in the token."""
        epoch = self._core.ledger.revocation_epoch
        try:
            claims = self._read(token)
        except TokenRejected:
            return Introspection(None, epoch)
        return Introspection(claims if self._stands(claims) else None, epoch)

    def _stands(self, claims: dict[str, Json]) -> bool:
        """Whether the ledger still backs the token."""
        ledger = self._core.ledger
        stored = ledger.jti_entry(str(claims["jti"]))
        if stored is None:
            return False
        decision = decision_from_record(stored.record)
        live = self._core.tasks.get(decision.task_id)
        return (
            live is not None
            and stands(self._core.tasks, live.task, self._core.moment())
            and live.task.epoch == decision.task_epoch
            and not ledger.is_void(decision.decision_id)
            and not self._core.revocations.covers(token_identity(decision.body, issuer=self._core.minter.issuer))
        )
