"""The one rule of revocation: what a set of revocations covers, whatever order they came in."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_sidecar.revoked import EVERY_AGENT, Revocation, RevokedSet, TokenIdentity, acting_agents

A, B = "spiffe://example.org/a", "spiffe://example.org/b"
TOKEN = TokenIdentity(jti="j", task_id="t", kid="k", agents=(A, B), revocation_epoch=5)


def revocation(**changes: Any) -> Revocation:
    fields: dict[str, Any] = {"sequence": 6, "kind": "jti", "target": "j", "expires_at": 100.0, **changes}
    return Revocation(**fields)


@pytest.mark.parametrize(
    ("changes", "covered"),
    [
        ({}, True),
        ({"target": "other"}, False),
        ({"sequence": 1}, True),
        ({"kind": "kid", "target": "k", "sequence": 1, "expires_at": None}, True),
        ({"kind": "task_id", "target": "t"}, True),
        ({"kind": "task_id", "target": "t", "sequence": 5}, False),
        ({"kind": "task_id", "target": "u"}, False),
        ({"kind": "agent", "target": A}, True),
        ({"kind": "agent", "target": B}, True),
        ({"kind": "agent", "target": A, "sequence": 5}, False),
        ({"kind": "agent", "target": EVERY_AGENT}, True),
        ({"kind": "agent", "target": EVERY_AGENT, "sequence": 5}, False),
        ({"kind": "jti", "target": "t"}, False),
    ],
)
def test_what_one_revocation_covers(changes: dict[str, Any], covered: bool) -> None:
    assert RevokedSet([revocation(**changes)]).covers(TOKEN) is covered


def test_what_has_nothing_left_to_cover_is_forgotten_and_a_key_never_is() -> None:
    revoked = RevokedSet([revocation(), revocation(kind="kid", target="k", expires_at=None)])
    revoked.forget_expired(99.9)
    assert len(revoked) == 2
    revoked.forget_expired(100.0)
    assert (len(revoked), revoked.of("kid")) == (1, ["k"])


revocations = st.builds(
    Revocation,
    sequence=st.integers(1, 8),
    kind=st.sampled_from(["task_id", "agent"]),
    target=st.sampled_from(["t", A, EVERY_AGENT]),
    expires_at=st.sampled_from([None, 10.0, 20.0]),
)


@given(st.lists(revocations, max_size=8), st.integers(0, 8), st.sampled_from([5.0, 10.0, 15.0, 25.0]), st.randoms())
def test_order_and_repetition_do_not_matter(told: list[Revocation], epoch: int, at: float, random: Any) -> None:
    """At least everything that is still in force is covered; what superseded entries covered may be covered longer."""
    token = dataclasses.replace(TOKEN, revocation_epoch=epoch)
    shuffled = random.sample(told, len(told)) + told[:2]
    one, other = RevokedSet(told), RevokedSet(shuffled)
    for revoked in (one, other):
        revoked.forget_expired(at)
    assert one.covers(token) == other.covers(token)
    in_force = [each for each in told if each.expires_at is None or each.expires_at > at]
    if RevokedSet(in_force).covers(token):
        assert one.covers(token)
    if not RevokedSet(told).covers(token):
        assert not one.covers(token)


@pytest.mark.parametrize(
    ("claims", "agents"),
    [
        ({"client_id": A}, (A,)),
        ({"client_id": A, "sub": A}, (A,)),
        ({"client_id": A, "sub": "https://idp.example|maria", "act": {"sub": A}}, (A, "https://idp.example|maria")),
        ({"client_id": B, "sub": A, "act": {"sub": B}}, (B, A)),
        ({"client_id": A, "sub": "m", "act": {"sub": A, "act": {"sub": B, "act": "nonsense"}}}, (A, "m", B)),
    ],
)
def test_everyone_a_token_stands_for(claims: dict[str, Any], agents: tuple[str, ...]) -> None:
    assert acting_agents(claims) == agents
