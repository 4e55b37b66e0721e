"""Claims that are wrong, or right for another call: times, parties, presenter, tool, arguments, resource.

Tokens here are rightly signed by the issuer's key unless the case is about the signature, so that nothing but the rule
under test can refuse them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from authz_sidecar.verifier import Presenter, Reason, TokenVerifier, base64url
from authz_sidecar.verifier.claims import DECISION_CLAIM
from tests.support.tokens import (
    AGENT,
    ARGUMENTS,
    AUDIENCE,
    ISSUER,
    NOW,
    OTHER_SHA256,
    X5T,
    Issuer,
    honest_claims,
    refuse,
    sign,
    sign_raw,
    verifier,
    verify,
)

TOKEN = Issuer().token()
CLAIMS = honest_claims()


def with_claim(name: str, value: Any) -> str:
    return sign({**CLAIMS, name: value})


def with_detail(**changes: Any) -> str:
    return with_claim("authorization_details", [{**CLAIMS["authorization_details"][0], **changes}])


# Step 5: types and times


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("convert", [str, float, bool, lambda value: None, lambda value: [value], lambda value: -value])
def test_time_that_is_not_an_integer_is_no_time(name: str, convert: Callable[[int], Any]) -> None:
    refuse(Reason.INVALID_CLAIM, with_claim(name, convert(CLAIMS[name])))


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"1e999", b"99999999999999999999"])
def test_number_beyond_json_is_malformed(text: bytes) -> None:
    payload = json.dumps({**CLAIMS, "exp": 0}).encode().replace(b'"exp": 0', b'"exp": ' + text)
    refuse(Reason.MALFORMED, sign_raw(payload))


@pytest.mark.parametrize("name", ["exp", "aud", "cnf", "authorization_details"])
def test_duplicate_claim_is_malformed(name: str) -> None:
    honest = json.dumps(CLAIMS)
    for payload in (f'{{"{name}":1,{honest[1:]}', f'{honest[:-1]},"{name}":1}}'):
        refuse(Reason.MALFORMED, sign_raw(payload.encode()))


def test_token_lives_until_its_expiry_and_the_leeway() -> None:
    def at(seconds: float) -> TokenVerifier:
        return verifier(now=lambda: NOW.replace(microsecond=0) + timedelta(seconds=seconds))

    verify(TOKEN, at(129.999))
    refuse(Reason.EXPIRED, TOKEN, subject=at(130))
    verify(TOKEN, at(-10))
    refuse(Reason.NOT_YET_VALID, TOKEN, subject=at(-10.001))


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_token_from_the_future_is_not_yet_valid(name: str) -> None:
    later = int(NOW.timestamp()) + 11
    refuse(Reason.NOT_YET_VALID, sign({**CLAIMS, "exp": later + 60, name: later}))


@pytest.mark.parametrize("life", [301, 86400, 0, -1])
def test_life_is_1_to_300_seconds(life: int) -> None:
    iat = CLAIMS["iat"] + 5
    refuse(Reason.LIFETIME_TOO_LONG, sign({**CLAIMS, "iat": iat, "exp": iat + life}))
    verify(sign({**CLAIMS, "iat": iat, "exp": iat + 300}))


# Step 6: parties


@pytest.mark.parametrize("iss", [None, "", ISSUER + "/", ISSUER.upper(), [ISSUER], "https://evil.example"])
def test_other_issuer_is_refused(iss: Any) -> None:
    refuse(Reason.WRONG_ISSUER, with_claim("iss", iss))


@pytest.mark.parametrize("aud", [None, "", AUDIENCE + "/", [AUDIENCE], [AUDIENCE, "https://b.example"], {"a": 1}, "*"])
def test_audience_is_one_string_and_it_is_me(aud: Any) -> None:
    refuse(Reason.WRONG_AUDIENCE, with_claim("aud", aud))


# Steps 7 and 8: presenter


@pytest.mark.parametrize(
    "cnf",
    [
        None,
        {},
        "x5t#S256",
        {"x5t#S256": None},
        {"x5t#S256": ""},
        {"x5t#S256": X5T + "="},
        {"x5t#S256": base64url.decode(X5T).hex()},
        {"x5t": X5T},
        {"kid": X5T},
        {"jwk": {}},
        {"x5t#S256": X5T, "jkt": OTHER_SHA256},
        {"x5t#S256": X5T, "x": 1},
    ],
)
def test_token_that_is_not_bound_to_one_key_is_refused(cnf: Any) -> None:
    refuse(Reason.NOT_BOUND, with_claim("cnf", cnf))


def test_token_without_confirmation_is_refused() -> None:
    refuse(Reason.NOT_BOUND, sign({name: value for name, value in CLAIMS.items() if name != "cnf"}))


@pytest.mark.parametrize(
    "presenter",
    [
        Presenter(),
        Presenter(spiffe_id=AGENT),
        Presenter(x5t_s256=OTHER_SHA256, spiffe_id=AGENT),
        Presenter(jkt=X5T, spiffe_id=AGENT),
        Presenter(x5t_s256=X5T, spiffe_id="spiffe://example.org/agent/other"),
        Presenter(x5t_s256=X5T, spiffe_id=""),
    ],
)
def test_presenter_without_the_bound_certificate_or_identity_is_refused(presenter: Presenter) -> None:
    refuse(Reason.WRONG_PRESENTER, TOKEN, presenter=presenter)


def test_key_bound_token_needs_the_proven_key() -> None:
    token = Issuer().token(cnf={"jkt": OTHER_SHA256})
    refuse(Reason.WRONG_PRESENTER, token)
    refuse(Reason.WRONG_PRESENTER, token, presenter=Presenter(jkt=X5T))
    verify(token, presenter=Presenter(jkt=OTHER_SHA256, spiffe_id=AGENT))


def test_unknown_spiffe_id_leaves_the_certificate_to_bind_the_token() -> None:
    verify(TOKEN, presenter=Presenter(x5t_s256=X5T))


@pytest.mark.parametrize("thumbprint", ["", base64url.decode(X5T).hex(), X5T + "=", X5T[:-1] + "1", "a" * 42])
def test_presenter_refuses_a_thumbprint_that_could_never_match(thumbprint: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        Presenter(x5t_s256=thumbprint)
    with pytest.raises(ValueError, match="base64url"):
        Presenter(jkt=thumbprint)


@pytest.mark.parametrize("act", [{"sub": "spiffe://example.org/agent/other"}, {}, {"act": {"sub": AGENT}}, AGENT, None])
def test_acting_agent_is_the_client(act: Any) -> None:
    refuse(Reason.INVALID_CLAIM, sign({**CLAIMS, "sub": "alice", "act": act}))
    refuse(Reason.INVALID_CLAIM, sign({**CLAIMS, "act": act}))


def test_subject_beside_the_agent_needs_an_actor() -> None:
    refuse(Reason.INVALID_CLAIM, with_claim("sub", "alice"))
    verified = verify(sign({**CLAIMS, "sub": "alice", "act": {"sub": AGENT, "act": {"sub": "spiffe://x/prior"}}}))
    assert (verified.subject, verified.client_id) == ("alice", AGENT)


# Step 9: the call


@pytest.mark.parametrize(
    "details",
    [
        None,
        [],
        {},
        "urn:x-authz-sidecar:tool-call",
        [None],
        [CLAIMS["authorization_details"][0]] * 2,
        [{**CLAIMS["authorization_details"][0], "type": "payment_initiation"}],
        [{**CLAIMS["authorization_details"][0], "max_amount": 5}],
        [{k: v for k, v in CLAIMS["authorization_details"][0].items() if k != "identifier"}],
        [{**CLAIMS["authorization_details"][0], "locations": [AUDIENCE, "https://b.example"]}],
        [{**CLAIMS["authorization_details"][0], "locations": []}],
    ],
)
def test_authorization_that_is_not_exactly_one_known_tool_call_is_refused(details: Any) -> None:
    refuse(Reason.UNKNOWN_AUTHORIZATION, with_claim("authorization_details", details))


@pytest.mark.parametrize(
    "actions", [[], ["crm/delete_contact"], ["crm/read_contact", "crm/delete_contact"], "crm/read_contact"]
)
def test_grant_for_other_tools_is_refused(actions: Any) -> None:
    refuse(Reason.WRONG_TOOL, with_detail(actions=actions))


def test_call_of_another_tool_is_refused() -> None:
    refuse(Reason.WRONG_TOOL, TOKEN, tool="crm/delete_contact")


@pytest.mark.parametrize(
    "arguments",
    [{}, {**ARGUMENTS, "limit": 11}, {**ARGUMENTS, "more": None}, {**ARGUMENTS, "fields": ["email", "name"]}],
)
def test_call_with_other_arguments_is_refused(arguments: dict[str, Any]) -> None:
    refuse(Reason.WRONG_ARGUMENTS, TOKEN, arguments=arguments)


@pytest.mark.parametrize("value", [float("nan"), 2**60, object(), {1: 2}, "\ud800", b"bytes"])
def test_arguments_without_canonical_form_are_refused(value: Any) -> None:
    refuse(Reason.WRONG_ARGUMENTS, TOKEN, arguments={"a": value})


def test_arguments_nested_beyond_the_interpreter_are_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"a": nested}
    try:
        refuse(Reason.WRONG_ARGUMENTS, TOKEN, arguments=nested)
    finally:
        while nested:  # taken apart by hand: dropping it at once would recurse in the interpreter
            nested = nested.pop("a")


def test_equal_arguments_in_another_spelling_are_accepted() -> None:
    verify(TOKEN, arguments={"limit": 10.0, "fields": ["name", "email"], "contact_id": "c-1042"})


def test_grant_for_another_resource_is_refused() -> None:
    refuse(Reason.WRONG_RESOURCE, TOKEN, resource="crm:contact/c-1043")
    assert verify(TOKEN, resource=None).resource == "crm:contact/c-1042"


@pytest.mark.parametrize("given", [{}, {"arguments": ARGUMENTS, "arguments_sha256": bytes(32)}])
def test_call_without_anything_to_compare_is_a_programming_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="arguments"):
        verifier().verify(TOKEN, presenter=Presenter(x5t_s256=X5T), tool="crm/read_contact", resource=None, **given)


@pytest.mark.parametrize("name", ["sub", "client_id", "jti", "txn", DECISION_CLAIM])
@pytest.mark.parametrize("value", [None, "", 1, True, []])
def test_claim_of_the_wrong_type_is_refused(name: str, value: Any) -> None:
    refuse(Reason.INVALID_CLAIM, with_claim(name, value))


@pytest.mark.parametrize(
    ("name", "value"), [("id", ""), ("policy_sha256", None), ("task_epoch", True), ("task_epoch", "2")]
)
def test_decision_that_is_incomplete_is_refused(name: str, value: Any) -> None:
    refuse(Reason.INVALID_CLAIM, with_claim(DECISION_CLAIM, {**CLAIMS[DECISION_CLAIM], name: value}))


def test_unknown_claims_are_ignored() -> None:
    assert verify(with_claim("scope", "crm.read")).claims["scope"] == "crm.read"
