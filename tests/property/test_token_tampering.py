"""Nobody without the key can write a second text that is accepted, and no record makes a token that says something else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_sidecar.clock import format_time
from authz_sidecar.token.claims import MintRefused, claims_of
from authz_sidecar.verifier import Presenter, TokenRejected, arguments_sha256, base64url
from tests.support.tokens import ISSUER, NOW, X5T, Issuer, parts, sign_raw, verifier, verify

TOKEN = Issuer().token()
VERIFIER = verifier()
_BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


def refused(token: str) -> bool:
    try:
        verify(token, VERIFIER)
    except TokenRejected:
        return True
    return False


def test_every_single_bit_counts() -> None:
    survivors = [
        (position, bit)
        for position, character in enumerate(TOKEN)
        for bit in range(8)
        if not refused(TOKEN[:position] + chr(ord(character) ^ (1 << bit)) + TOKEN[position + 1 :])
    ]
    assert survivors == []


def test_every_single_character_counts() -> None:
    assert not refused(TOKEN)
    for position in range(len(TOKEN)):
        assert refused(TOKEN[:position] + TOKEN[position + 1 :])
        assert refused(TOKEN[:position])


@given(
    position=st.integers(0, len(TOKEN)),
    inserted=st.text(st.sampled_from(_BASE64URL + ".=+/ \n\0") | st.characters(), min_size=1, max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_nothing_can_be_inserted(position: int, inserted: str) -> None:
    assert refused(TOKEN[:position] + inserted + TOKEN[position:])


@given(
    edits=st.lists(st.tuples(st.integers(0, len(TOKEN) - 1), st.sampled_from(_BASE64URL + ".")), min_size=1, max_size=6)
)
@settings(max_examples=300, deadline=None)
def test_nothing_can_be_replaced(edits: list[tuple[int, str]]) -> None:
    characters = list(TOKEN)
    for position, character in edits:
        characters[position] = character
    changed = "".join(characters)
    assert changed == TOKEN or refused(changed)


@given(
    token=st.text(max_size=60)
    | st.lists(st.binary(max_size=30).map(base64url.encode), min_size=3, max_size=3).map(".".join)
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_rejected_and_raises_nothing_else(token: str) -> None:
    assert refused(token)


@given(payload=_json)
@settings(max_examples=300, deadline=None)
def test_any_signed_json_is_rejected_and_raises_nothing_else(payload: Any) -> None:
    assert refused(sign_raw(json.dumps(payload).encode()))


@given(name=st.sampled_from(sorted(parts(TOKEN)[1])), value=_json)
@settings(max_examples=500, deadline=None)
def test_any_signed_value_of_any_claim_is_verified_or_rejected(name: str, value: Any) -> None:
    claims = {**parts(TOKEN)[1], name: value}
    token = sign_raw(json.dumps(claims).encode())
    try:
        verified = verify(token, VERIFIER)
    except TokenRejected:
        return
    assert json.loads(json.dumps(dict(verified.claims))) == claims
    assert claims["exp"] - claims["iat"] <= 300


@given(
    initiator=st.fixed_dictionaries(
        {"kind": st.sampled_from(["human", "workflow"]), "id": _texts, "verified": st.booleans()}
    ),
    resource=_texts,
    arguments=st.dictionaries(_texts, _json, max_size=4),
    epoch=st.integers(1, 2**31),
    task_id=_texts,
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_permitted_is_what_the_tool_server_verifies(
    initiator: dict[str, Any], resource: str, arguments: dict[str, Any], epoch: int, task_id: str
) -> None:
    issuer = Issuer()
    record = issuer.record(initiator=initiator)
    record["resource"]["id"] = resource
    record["tool"]["arguments_sha256"] = arguments_sha256(arguments).hex()
    record["task"] = {"id": task_id, "epoch": epoch, "expires_at": format_time(NOW.replace(hour=13))}
    impersonates = initiator["verified"] and initiator["kind"] == "human" and initiator["id"].startswith("spiffe://")
    if impersonates or not (resource and task_id and (initiator["id"] or not initiator["verified"])):
        with pytest.raises(MintRefused):
            issuer.minter.mint(record)
        return
    token = issuer.minter.mint(record).value
    verified = verify(token, VERIFIER, arguments=json.loads(json.dumps(arguments)), resource=resource)
    assert dict(verified.claims) == claims_of(record, issuer=ISSUER)
    assert (verified.task_id, verified.task_epoch, verified.resource) == (task_id, epoch, resource)
    changed = {**arguments, "one more": 1}
    if changed != arguments:
        with pytest.raises(TokenRejected):
            verify(token, VERIFIER, arguments=changed, resource=resource, presenter=Presenter(x5t_s256=X5T))
