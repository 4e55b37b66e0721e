"""What a recorded permit turns into, and which records turn into nothing."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from authz_sidecar.clock import format_time
from authz_sidecar.errors import NotReady, OperatorError
from authz_sidecar.token.claims import MintRefused, claims_of
from authz_sidecar.token.issued import IssuedTokens
from authz_sidecar.token.keys import KeyRing, KeyState, PublishedKey, SigningKey
from authz_sidecar.token.mint import Minter, TokenLimits
from authz_sidecar.verifier import JwkSet, Presenter, Reason, TokenRejected
from tests.support.tokens import (
    AGENT,
    AUDIENCE,
    ISSUER,
    KEY,
    NOW,
    OTHER_SHA256,
    TOOL,
    X5T,
    Issuer,
    honest_claims,
    parts,
    sign,
    verifier,
    verify,
)

HOUR = timedelta(hours=1)
CNF = {"x5t#S256": X5T}


def minter(**changes: Any) -> Minter:
    options: dict[str, Any] = {"new_jti": lambda: "j" * 22, **changes}
    return Minter(options.pop("keyring", KeyRing(KEY)), options.pop("issuer", ISSUER), **options)


def plan(issuing: Minter, **changes: Any) -> dict[str, Any] | None:
    return issuing.plan(**{"now": NOW, "not_after": NOW + HOUR, "audience": AUDIENCE, "cnf": CNF, **changes})


# plan


def test_plan_holds_every_part_of_the_token_that_the_record_cannot_know() -> None:
    iat = int(NOW.timestamp())
    assert plan(minter()) == {
        "jti": "j" * 22,
        "iat": iat,
        "nbf": iat - 5,
        "exp": iat + 120,
        "aud": AUDIENCE,
        "cnf": CNF,
        "kid": KEY.kid,
    }


@pytest.mark.parametrize(
    ("not_after", "key_ends", "life"),
    [(HOUR, None, 120), (timedelta(seconds=60), None, 60), (HOUR, timedelta(seconds=30), 30)],
)
def test_token_ends_with_the_first_thing_it_depends_on(
    not_after: timedelta, key_ends: timedelta | None, life: int
) -> None:
    key = SigningKey.generate(not_after=NOW + key_ends if key_ends else None)
    planned = plan(minter(keyring=KeyRing(key)), not_after=NOW + not_after)
    assert planned is not None
    assert planned["exp"] == int((NOW + timedelta(seconds=life)).timestamp())


@pytest.mark.parametrize("left", [-60.0, 0.0, 0.5, 0.999])
def test_less_than_a_second_of_life_is_no_token(left: float) -> None:
    assert plan(minter(), not_after=NOW + timedelta(seconds=left)) is None


@pytest.mark.parametrize("microsecond", [0, 250_000, 999_999])
@pytest.mark.parametrize("left", [1.0, 1.5, 2.0])
def test_expiry_is_never_rounded_past_what_it_depends_on(microsecond: int, left: float) -> None:
    now = NOW.replace(microsecond=microsecond)
    not_after = now + timedelta(seconds=left)
    planned = plan(minter(), now=now, not_after=not_after)
    if planned is not None:
        assert now + timedelta(seconds=1) <= datetime.fromtimestamp(planned["exp"], UTC) <= not_after


def test_ended_signing_key_is_no_denial_but_an_outage() -> None:
    key = SigningKey.generate(not_after=NOW)
    with pytest.raises(NotReady, match="activate a new one"):
        plan(minter(keyring=KeyRing(key)))


@pytest.mark.parametrize("seconds", [0, 1.9, 300.5, 3600, -1])
def test_ttl_out_of_range_is_refused_at_start(seconds: float) -> None:
    with pytest.raises(OperatorError, match="2 to 300 seconds"):
        TokenLimits(ttl=timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [2, 300])
def test_ttl_within_range_is_kept(seconds: int) -> None:
    planned = plan(minter(limits=TokenLimits(ttl=timedelta(seconds=seconds))))
    assert planned is not None
    assert planned["exp"] - planned["iat"] == seconds


def test_issuer_without_a_name_is_refused_at_start() -> None:
    with pytest.raises(OperatorError, match="issuer"):
        minter(issuer="")


# mint


def test_minted_token_is_accepted_for_the_recorded_call() -> None:
    issuer = Issuer()
    record = issuer.record()
    minted = issuer.minter.mint(record)
    verified = verify(minted.value)
    assert (verified.jti, verified.expires_at) == (minted.jti, minted.expires_at)
    assert minted.audience == AUDIENCE
    assert minted.expires_at.timestamp() == record["token"]["exp"]
    assert len(minted.value) < 4096


def test_same_record_gives_the_same_claims_again_after_a_restart() -> None:
    record = Issuer().record()
    first, second = Issuer().minter.mint(record), Issuer().minter.mint(copy.deepcopy(record))
    assert parts(first.value) == parts(second.value)
    assert parts(first.value)[1] == claims_of(record, issuer=ISSUER)


def test_minting_leaves_the_record_alone() -> None:
    issuer = Issuer()
    record = issuer.record()
    before = copy.deepcopy(record)
    issuer.minter.mint(record)
    assert record == before


def test_token_never_shows_in_a_representation() -> None:
    minted = Issuer().minter.mint(Issuer().record())
    assert minted.value not in repr(minted)
    assert "PrivateKey" not in repr(KEY)


def test_claims_say_what_the_record_says() -> None:
    header, claims = parts(Issuer().token())
    assert header == {"typ": "at+jwt", "alg": "ES256", "kid": KEY.kid}
    iat = int(NOW.timestamp())
    assert claims == {
        "iss": ISSUER,
        "sub": AGENT,
        "aud": AUDIENCE,
        "client_id": AGENT,
        "iat": iat,
        "nbf": iat - 5,
        "exp": iat + 120,
        "jti": "jti-0000000000000000000001",
        "txn": "task-7",
        "cnf": CNF,
        "authorization_details": [
            {
                "type": "urn:x-authz-sidecar:tool-call",
                "locations": [AUDIENCE],
                "actions": [TOOL],
                "identifier": "crm:contact/c-1042",
                "arguments_sha256": Issuer().record()["tool"]["arguments_sha256"],
            }
        ],
        "urn:x-authz-sidecar:decision": {
            "id": "dec-01",
            "policy_sha256": "sha256:" + "ef" * 32,
            "task_epoch": 2,
            "revocation_epoch": 5,
        },
    }


@pytest.mark.parametrize("kind", ["human", "workflow"])
def test_only_a_verified_initiator_becomes_the_subject(kind: str) -> None:
    claimed = parts(Issuer().token(initiator={"kind": kind, "id": "alice", "verified": False}))[1]
    assert (claimed["sub"], "act" in claimed) == (AGENT, False)
    for verified in ("true", 1, None):
        assert parts(Issuer().token(initiator={"kind": kind, "id": "alice", "verified": verified}))[1]["sub"] == AGENT
    proven = parts(Issuer().token(initiator={"kind": kind, "id": "alice", "verified": True}))[1]
    assert (proven["sub"], proven["client_id"], proven["act"]) == ("alice", AGENT, {"sub": AGENT})


def test_human_cannot_be_taken_for_a_workload() -> None:
    human = {"kind": "human", "id": "spiffe://example.org/admin", "verified": True}
    with pytest.raises(MintRefused, match="could be taken"):
        Issuer().token(initiator=human)
    Issuer().token(initiator={**human, "kind": "workflow"})


def test_key_bound_token_names_the_key() -> None:
    token = Issuer().token(cnf={"jkt": OTHER_SHA256})
    assert verify(token, presenter=Presenter(jkt=OTHER_SHA256)).claims["cnf"] == {"jkt": OTHER_SHA256}


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "outcome"},
        {"outcome": "deny"},
        {"outcome": "approval_required"},
        {"token": None},
        {"task": {"id": "task-7"}},
        {"task": {"id": "task-7", "epoch": 2, "expires_at": "soon"}},
        {"resource": None},
        {"resource": {"id": ""}},
        {"actor": {}},
        {"initiator": None},
        {"policy": None},
        {"id": 7},
    ],
    ids=str,
)
def test_record_that_is_no_whole_permit_is_never_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(MintRefused):
        Issuer().token(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(NOW.timestamp()) + 301},
        {"exp": int(NOW.timestamp())},
        {"exp": "9999999999"},
        {"exp": True},
        {"nbf": int(NOW.timestamp()) + 60},
        {"iat": -5, "nbf": -10, "exp": 100},
        {"aud": ""},
        {"aud": ["a"]},
        {"jti": ""},
        {"cnf": {}},
        {"cnf": {"x5t#S256": X5T, "jkt": OTHER_SHA256}},
        {"cnf": {"x5t#S256": "ab" * 32}},
        {"cnf": {"kid": "x"}},
        {"cnf": None},
        {"kid": OTHER_SHA256},
        {"kid": None},
    ],
    ids=str,
)
def test_token_that_the_verifier_would_refuse_is_never_handed_out(changes: dict[str, Any]) -> None:
    issuer = Issuer()
    record = issuer.record()
    record["token"].update(changes)
    with pytest.raises(MintRefused):
        issuer.minter.mint(record)


def test_token_never_outlives_its_task() -> None:
    issuer = Issuer()
    record = issuer.record()
    end = datetime.fromtimestamp(record["token"]["exp"], UTC)
    record["task"]["expires_at"] = format_time(end)
    issuer.minter.mint(record)
    record["task"]["expires_at"] = format_time(end - timedelta(microseconds=1))
    with pytest.raises(MintRefused, match="end of the task"):
        issuer.minter.mint(record)


def test_arguments_digest_that_is_not_hex_matches_no_call_and_is_still_only_what_was_recorded() -> None:
    issuer = Issuer()
    record = issuer.record()
    record["tool"]["arguments_sha256"] = "not-a-digest"
    token = issuer.minter.mint(record).value
    with pytest.raises(TokenRejected) as caught:
        verify(token)
    assert caught.value.reason is Reason.WRONG_ARGUMENTS


def test_record_signed_by_a_key_that_was_rotated_out_is_not_signed_by_another() -> None:
    record = Issuer().record()
    rotated = KeyRing(SigningKey.generate(), [PublishedKey(KEY.public, KeyState.RETIRING)])
    with pytest.raises(MintRefused, match="not held any more"):
        minter(keyring=rotated).mint(record)
    # Tokens that are already out stay good for as long as the old key is published.
    verify(Issuer().token(), verifier(keys=JwkSet.parse(rotated.jwks())))


# the issuer's own reader


def issued(**changes: Any) -> IssuedTokens:
    options: dict[str, Any] = {"now": lambda: NOW, **changes}
    return IssuedTokens(options.pop("keyring", KeyRing(KEY)), options.pop("issuer", ISSUER), **options)


def test_issuer_reads_its_own_tokens_for_any_audience() -> None:
    assert issued().read(Issuer().token()) == honest_claims()
    assert issued().read(sign({**honest_claims(), "aud": "https://b.example"}))["aud"] == "https://b.example"


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (issued(now=lambda: NOW + timedelta(seconds=120)), Reason.EXPIRED),
        (issued(issuer="https://other.example"), Reason.WRONG_ISSUER),
        (issued(keyring=KeyRing(SigningKey.generate())), Reason.UNKNOWN_KEY),
    ],
)
def test_issuer_does_not_know_foreign_or_expired_tokens(reader: IssuedTokens, reason: Reason) -> None:
    with pytest.raises(TokenRejected) as caught:
        reader.read(Issuer().token())
    assert caught.value.reason is reason


def test_issuer_does_not_know_an_altered_token() -> None:
    header, payload, signature = Issuer().token().split(".")
    other = Issuer().token(id="dec-02").split(".")[1]
    for token, reason in (
        (f"{header}.{other}.{signature}", Reason.BAD_SIGNATURE),
        (f"{header}.{payload}", Reason.MALFORMED),
        (sign({**honest_claims(), "jti": 7}), Reason.INVALID_CLAIM),
    ):
        with pytest.raises(TokenRejected) as caught:
            issued().read(token)
        assert caught.value.reason is reason
