"""The closed list of reasons: each one can be reached, by one plain example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from authz_sidecar.token.keys import SigningKey
from authz_sidecar.verifier import JwksFile, OneShot, Presenter, Reason, TokenRejected, TokenVerifier
from tests.support.tokens import KEY, NOW, OTHER_SHA256, X5T, Issuer, honest_claims, sign, verifier, verify

TOKEN = Issuer().token()
CLAIMS = honest_claims()
HEADER = {"typ": "at+jwt", "alg": "ES256", "kid": KEY.kid}
STRANGER = SigningKey.generate()


def after(used: TokenVerifier, *tokens: str) -> TokenVerifier:
    """A one-shot verifier that has accepted tokens before."""
    for token in tokens:
        verify(token, used)
    return used


CASES: Mapping[Reason, Callable[[Any], Any]] = {
    Reason.MALFORMED: lambda tmp: verify(TOKEN + "="),
    Reason.WRONG_TYPE: lambda tmp: verify(sign(CLAIMS, header={**HEADER, "typ": "JWT"})),
    Reason.FORBIDDEN_HEADER: lambda tmp: verify(sign(CLAIMS, header={**HEADER, "jku": "https://evil.example"})),
    Reason.WRONG_ALGORITHM: lambda tmp: verify(sign(CLAIMS, header={**HEADER, "alg": "HS256"})),
    Reason.UNKNOWN_KEY: lambda tmp: verify(sign(CLAIMS, key=STRANGER)),
    Reason.KEYS_UNAVAILABLE: lambda tmp: verify(TOKEN, verifier(keys=JwksFile(tmp / "absent.json"))),
    Reason.BAD_SIGNATURE: lambda tmp: verify(sign(CLAIMS, header=HEADER, key=STRANGER)),
    Reason.INVALID_CLAIM: lambda tmp: verify(sign({**CLAIMS, "exp": "9999999999"})),
    Reason.EXPIRED: lambda tmp: verify(TOKEN, verifier(now=lambda: NOW + timedelta(minutes=3))),
    Reason.NOT_YET_VALID: lambda tmp: verify(TOKEN, verifier(now=lambda: NOW - timedelta(minutes=3))),
    Reason.LIFETIME_TOO_LONG: lambda tmp: verify(sign({**CLAIMS, "exp": CLAIMS["iat"] + 3600})),
    Reason.WRONG_ISSUER: lambda tmp: verify(TOKEN, verifier(issuer="https://other.example")),
    Reason.WRONG_AUDIENCE: lambda tmp: verify(TOKEN, verifier(audience="https://other.example")),
    Reason.NOT_BOUND: lambda tmp: verify(sign({**CLAIMS, "cnf": {}})),
    Reason.WRONG_PRESENTER: lambda tmp: verify(TOKEN, presenter=Presenter(x5t_s256=OTHER_SHA256)),
    Reason.UNKNOWN_AUTHORIZATION: lambda tmp: verify(sign({**CLAIMS, "authorization_details": []})),
    Reason.WRONG_TOOL: lambda tmp: verify(TOKEN, tool="crm/delete_contact"),
    Reason.WRONG_ARGUMENTS: lambda tmp: verify(TOKEN, arguments={"contact_id": "c-1"}),
    Reason.WRONG_RESOURCE: lambda tmp: verify(TOKEN, resource="crm:contact/c-1"),
    Reason.REVOKED: lambda tmp: verify(TOKEN, verifier(revocation=lambda verified: verified.kid == KEY.kid)),
    Reason.STALE: lambda tmp: verify(TOKEN, verifier(revocation=lambda verified: None)),
    Reason.INACTIVE: lambda tmp: verify(TOKEN, verifier(introspect=lambda token: False)),
    Reason.STATUS_UNAVAILABLE: lambda tmp: verify(TOKEN, verifier(introspect=lambda token: 1 / 0 > 0)),
    Reason.REPLAYED: lambda tmp: verify(TOKEN, after(verifier(one_shot=OneShot()), TOKEN)),
    Reason.OVERLOADED: lambda tmp: verify(
        TOKEN, after(verifier(one_shot=OneShot(max_tokens=1)), sign({**CLAIMS, "jti": "first"}))
    ),
}


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_can_be_reached(reason: Reason, tmp_path: Any) -> None:
    with pytest.raises(TokenRejected) as caught:
        CASES[reason](tmp_path)
    assert caught.value.reason is reason
    assert str(caught.value) == f"{reason.value}: {caught.value.message}"


def test_the_examples_are_refused_for_nothing_else() -> None:
    assert verify(TOKEN).claims == CLAIMS | {"jti": verify(TOKEN).jti}
    verify(sign(CLAIMS), presenter=Presenter(x5t_s256=X5T))
