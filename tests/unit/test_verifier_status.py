"""Revocation, introspection, one-shot use, and verifiers that could not refuse anything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from authz_sidecar.verifier import OneShot, Presenter, Reason
from tests.support.tokens import (
    NOW,
    OTHER_SHA256,
    X5T,
    Issuer,
    honest_claims,
    parts,
    refuse,
    verifier,
    verify,
)

TOKEN = Issuer().token()
CLAIMS = honest_claims()


# Steps 10 and 11: status and replay


def failing(_: Any) -> bool:
    raise ConnectionError("feed is stale")


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ({"revocation": lambda verified: True}, Reason.REVOKED),
        ({"revocation": lambda verified: verified.task_id == "task-7"}, Reason.REVOKED),
        ({"revocation": lambda verified: "no"}, Reason.REVOKED),
        ({"revocation": lambda verified: None}, Reason.STALE),
        ({"revocation": lambda verified: None, "introspect": lambda token: False}, Reason.INACTIVE),
        ({"revocation": lambda verified: None, "introspect_when_stale": lambda token: False}, Reason.INACTIVE),
        ({"revocation": lambda verified: None, "introspect_when_stale": failing}, Reason.STATUS_UNAVAILABLE),
        ({"revocation": lambda verified: True, "introspect_when_stale": lambda token: True}, Reason.REVOKED),
        ({"revocation": failing}, Reason.STATUS_UNAVAILABLE),
        ({"introspect": lambda token: False}, Reason.INACTIVE),
        ({"introspect": lambda token: {"active": False}}, Reason.INACTIVE),
        ({"introspect": lambda token: None}, Reason.INACTIVE),
        ({"introspect": failing}, Reason.STATUS_UNAVAILABLE),
    ],
)
def test_status_that_is_not_a_clear_yes_refuses(hooks: dict[str, Any], reason: Reason) -> None:
    refuse(reason, TOKEN, subject=verifier(**hooks))


def test_hooks_are_asked_about_verified_tokens_only() -> None:
    asked: list[str] = []

    def introspect(token: str) -> bool:
        asked.append(token)
        return True

    checked = verifier(introspect=introspect, revocation=lambda verified: False)
    refuse(Reason.WRONG_TOOL, TOKEN, subject=checked, tool="crm/delete_contact")
    assert not asked
    verify(TOKEN, checked)
    assert asked == [TOKEN]


def test_a_stale_feed_is_replaced_by_asking_and_only_then() -> None:
    asked: list[str] = []
    known: list[bool | None] = [None]

    def introspect(token: str) -> bool:
        asked.append(token)
        return True

    checked = verifier(revocation=lambda verified: known[0], introspect_when_stale=introspect)
    verify(TOKEN, checked)
    assert asked == [TOKEN]
    known[0] = False
    verify(TOKEN, checked)
    assert asked == [TOKEN]


def test_one_shot_token_is_accepted_once() -> None:
    once = verifier(one_shot=OneShot())
    verify(TOKEN, once)
    refuse(Reason.REPLAYED, TOKEN, subject=once)
    verify(Issuer().token(id="dec-02"), verifier(one_shot=OneShot()))


def test_one_shot_token_is_remembered_through_the_leeway() -> None:
    late = verifier(one_shot=OneShot(), now=lambda: NOW + timedelta(seconds=125))
    verify(TOKEN, late)
    refuse(Reason.REPLAYED, TOKEN, subject=late)


def test_refused_use_does_not_spend_a_one_shot_token() -> None:
    once = verifier(one_shot=OneShot())
    refuse(Reason.WRONG_ARGUMENTS, TOKEN, subject=once, arguments={})
    verify(TOKEN, once)


@pytest.mark.parametrize("options", [{"issuer": ""}, {"audience": ""}, {"leeway": 31}, {"leeway": -1}])
def test_verifier_that_would_check_nothing_cannot_be_built(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must not be empty|`leeway`"):
        verifier(**options)


def test_messages_hold_no_part_of_the_token() -> None:
    signature = TOKEN.rpartition(".")[2]
    message = str(refuse(Reason.WRONG_PRESENTER, TOKEN, presenter=Presenter(x5t_s256=OTHER_SHA256)))
    for secret in (signature, X5T, OTHER_SHA256, CLAIMS["jti"], CLAIMS["authorization_details"][0]["arguments_sha256"]):
        assert secret not in message
    assert parts(TOKEN)[1]["cnf"]["x5t#S256"] == X5T
