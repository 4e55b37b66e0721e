"""Which tokens are dead: one rule, for the sidecar that revokes and for the tool servers that are told.

Revocations are numbered; the number of the newest one is the revocation epoch. Every token says at which epoch it was
granted, so "every token of this agent so far" needs no clock: it is every token whose epoch is below the revocation's
number. A revoked key and a revoked token identifier are dead whatever a token says about itself.

Pure: no clock, no storage, nothing of the rest of the project.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

Kind = Literal["jti", "task_id", "agent", "kid"]

EVERY_AGENT = "*"

# A token lives at most 300 s and a verifier's leeway is at most 30 s; the other 30 s are for its clock.
LONGEST_LIFE_SECONDS = 300
LATEST_USE_SECONDS = 60
HORIZON_SECONDS = LONGEST_LIFE_SECONDS + LATEST_USE_SECONDS


class Revocable(Protocol):
    """What decides whether a token is revoked.

    Attributes:
        jti: identifier of the token.
        task_id: its task.
        kid: the key that signed it.
        agents: SPIFFE IDs of everyone who holds or acted in it, and its subject.
        revocation_epoch: number of the newest revocation when it was granted.
    """

    @property
    def jti(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def kid(self) -> str: ...
    @property
    def agents(self) -> tuple[str, ...]: ...
    @property
    def revocation_epoch(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One revocation.

    Attributes:
        sequence: its number, from 1.
        kind, target: what is revoked. An agent is a SPIFFE ID, or `EVERY_AGENT`.
        expires_at: Unix time from which nothing it covers could be accepted anyway; None for never.
        task_epoch: of a task that was suspended or ended, the epoch that ended with it; 0 otherwise.
    """

    sequence: int
    kind: Kind
    target: str
    expires_at: float | None
    task_epoch: int = 0


class RevokedSet:
    """The revocations that still matter, the newest for each target. Not safe to change from several threads."""

    def __init__(self, revocations: Iterable[Revocation] = ()) -> None:
        self._newest: dict[tuple[str, str], Revocation] = {}
        self._ends: list[tuple[float, tuple[str, str]]] = []
        for revocation in revocations:
            self.add(revocation)

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, revocation: Revocation) -> None:
        """Take one more; the order does not matter."""
        key = (revocation.kind, revocation.target)
        known = self._newest.get(key)
        if known is not None:
            # The wider of both in each respect, so that the order of telling does not matter.
            revocation = replace(
                known,
                sequence=max(known.sequence, revocation.sequence),
                expires_at=_later(known.expires_at, revocation.expires_at),
                task_epoch=max(known.task_epoch, revocation.task_epoch),
            )
        self._newest[key] = revocation
        if revocation.expires_at is not None:
            heapq.heappush(self._ends, (revocation.expires_at, key))

    def covers(self, token: Revocable) -> bool:
        """Whether the token is revoked."""
        newest = self._newest
        if ("jti", token.jti) in newest or ("kid", token.kid) in newest:
            return True
        targets = [("task_id", token.task_id), ("agent", EVERY_AGENT), *(("agent", agent) for agent in token.agents)]
        found = (newest.get(target) for target in targets)
        return any(one is not None and token.revocation_epoch < one.sequence for one in found)

    def has(self, kind: Kind, target: str) -> bool:
        """Whether there is a revocation of exactly this."""
        return (kind, target) in self._newest

    def of(self, kind: Kind) -> list[str]:
        """Every revoked target of a kind, sorted."""
        return sorted(target for found, target in self._newest if found == kind)

    def forget_expired(self, at: float) -> None:
        """Drop what covers nothing any more at the Unix time `at`."""
        while self._ends and self._ends[0][0] <= at:
            _, key = heapq.heappop(self._ends)
            known = self._newest.get(key)
            if known is not None and known.expires_at is not None and known.expires_at <= at:
                del self._newest[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIdentity:
    """What decides whether a token is revoked, read from its claims."""

    jti: str
    task_id: str
    kid: str
    agents: tuple[str, ...]
    revocation_epoch: int


def acting_agents(claims: Mapping[str, object]) -> tuple[str, ...]:
    """Everyone a token stands for: `client_id`, `sub`, and each `sub` of the `act` chain (RFC 8693 section 4.1).

    `sub` is an agent when that agent started the task and delegated it. A revocation may only widen along the chain, so
    a part of another shape ends the walk and adds nothing.
    """
    found = [str(claims.get("client_id"))]
    if isinstance(subject := claims.get("sub"), str) and subject not in found:
        found.append(subject)
    actor = claims.get("act")
    while isinstance(actor, dict):
        name = actor.get("sub")
        if isinstance(name, str) and name not in found:
            found.append(name)
        actor = actor.get("act")
    return tuple(found)


def _later(one: float | None, other: float | None) -> float | None:
    """The later of two ends; None is never."""
    return None if one is None or other is None else max(one, other)
