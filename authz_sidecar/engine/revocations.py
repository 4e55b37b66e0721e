"""What is revoked and who is suspended, in memory, so that every decision and introspection can ask.

INVARIANT: memory runs ahead of the ledger only in the direction that restricts. A revocation counts from the moment its
record is accepted; when the record is not stored, memory is read from the ledger again. A resumption counts when its
record is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.ledger.records import Record
from authz_sidecar.ledger.store import Ledger, Position
from authz_sidecar.revoked import EVERY_AGENT, Kind, Revocable, Revocation, RevokedSet, TokenIdentity, acting_agents
from authz_sidecar.strictjson import Json
from authz_sidecar.token.claims import claims_of


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A revocation whose record is on its way to the disk."""

    revocation: Revocation
    suspends: bool


class Revocations:
    """The revocation state of one sidecar."""

    def __init__(self, ledger: Ledger, now: Callable[[], datetime]) -> None:
        """Loads what is in force at `now`."""
        self._ledger = ledger
        self._now = now
        self._ahead: dict[int, _Ahead] = {}
        self._followers: list[Callable[[Revocation], None]] = []
        self._load()
        ledger.follow_revocations(self._durable)

    def follow(self, told: Callable[[Revocation], None]) -> None:
        """Call `told` with each revocation once it is durable, in order, before its caller gets an answer."""
        self._followers.append(told)

    @property
    def epoch(self) -> int:
        """Number of the newest revocation that decisions made now come after."""
        return self._ledger.accepted_epoch

    def covers(self, token: Revocable) -> bool:
        """Whether the token is revoked, by a record that is durable or on its way."""
        return self._revoked.covers(token)

    def key_revoked(self, kid: str) -> bool:
        """Whether a signing key is revoked: it can sign nothing any more."""
        return self._revoked.has("kid", kid)

    @property
    def revoked_keys(self) -> list[str]:
        return self._revoked.of("kid")

    def suspended(self, *agents: str) -> bool:
        """Whether one of the agents, or every agent, is suspended."""
        return EVERY_AGENT in self._suspended or not self._suspended.isdisjoint(agents)

    def append(
        self, record: Record, *, kind: Kind, target: str, expires_at: float | None, suspends: bool = False
    ) -> asyncio.Future[Position]:
        """Hand a revoking record to the ledger; it counts at once. Raises what `Ledger.append` raises."""
        appended = self._ledger.append(record)
        revocation = Revocation(sequence=self._ledger.accepted_epoch, kind=kind, target=target, expires_at=expires_at)
        key = id(appended)
        self._ahead[key] = _Ahead(revocation, suspends)
        self._count(self._ahead[key])

        def settled(future: asyncio.Future[Position]) -> None:
            del self._ahead[key]
            if future.cancelled() or future.exception() is not None:
                self._load()

        appended.add_done_callback(settled)
        return appended

    def append_resumption(self, record: Record, agent: str) -> asyncio.Future[Position]:
        """Hand the record of a resumption to the ledger. It counts when it is durable, whoever still waits for it."""
        appended = self._ledger.append(record)

        def settled(future: asyncio.Future[Position]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._suspended.discard(agent)

        appended.add_done_callback(settled)
        return appended

    def _load(self) -> None:
        epoch = self._ledger.revocation_epoch
        self._revoked = RevokedSet(self._ledger.revocations_in_force(self._now(), up_to=epoch))
        self._suspended = set(self._ledger.suspended_agents())
        for ahead in self._ahead.values():
            self._count(ahead)

    def _count(self, ahead: _Ahead) -> None:
        self._revoked.add(ahead.revocation)
        if ahead.suspends:
            self._suspended.add(ahead.revocation.target)

    def _durable(self, revocation: Revocation) -> None:
        self._revoked.forget_expired(self._now().timestamp())
        self._revoked.add(revocation)
        for told in self._followers:
            told(revocation)


def token_identity(record: Mapping[str, Json], *, issuer: str) -> TokenIdentity:
    """What decides whether the token of a recorded permit is revoked. Raises MintRefused when it is no permit."""
    claims = claims_of(record, issuer=issuer)
    token, epoch = record["token"], record.get("revocation_epoch")
    return TokenIdentity(
        jti=str(claims["jti"]),
        task_id=str(claims["txn"]),
        kid=str(token.get("kid")) if isinstance(token, dict) else "",
        agents=acting_agents(claims),
        # A record that does not say counts as older than every revocation.
        revocation_epoch=epoch if isinstance(epoch, int) else 0,
    )
