"""JWT-SVID validation, case by case: JWT-SVID sections 2 to 4, Workload API section 6.3, RFC 8725.

Every refused token differs in one thing from a token that is accepted.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.bundle import BundleSet, parse_bundle
from authz_sidecar.identity.jwt_svid import JwtSvidVerifier
from authz_sidecar.identity.spiffe_id import TrustDomain
from authz_sidecar.identity.subject import Subject
from tests.support.identity import NOW, JwtSigner, b64url, jwks, svid_claims

AUDIENCE = "authz-sidecar"
AGENT = "spiffe://example.org/agent"
SECONDS = int(NOW.timestamp())
EC = JwtSigner("ec")
RSA_KEY = rsa.generate_private_key(65537, 2048)
SIGNERS = {
    "ES256": EC,
    "ES384": JwtSigner("ec-384", ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "ES512": JwtSigner("ec-521", ec.generate_private_key(ec.SECP521R1()), "ES512"),
    **{alg: JwtSigner("rsa", RSA_KEY, alg) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
}
PARTNER = JwtSigner("partner-key")
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED25519_JWK = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": b64url(ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)),
    "kid": "ed",
    "use": "jwt-svid",
}
ONLY_PS256 = JwtSigner("rsa-ps256", rsa.generate_private_key(65537, 2048), "PS256")
KEYS = [
    *(SIGNERS[alg].jwk() for alg in ("ES256", "ES384", "ES512", "RS256")),
    ONLY_PS256.jwk(alg="PS256"),
    ED25519_JWK,
    JwtSigner("wrong-use").jwk(use="x509-svid"),
]
BUNDLES = BundleSet.of(
    parse_bundle(TrustDomain("example.org"), jwks(*KEYS)),
    parse_bundle(TrustDomain("partner.test"), jwks(PARTNER.jwk())),
    parse_bundle(TrustDomain("empty.test"), jwks()),
)


def verify(token: str, bundles: BundleSet = BUNDLES, leeway: timedelta = timedelta(seconds=10)) -> Subject:
    return JwtSvidVerifier(AUDIENCE, leeway).verify(token, bundles=bundles, now=NOW)


def with_claims(**changes: Any) -> Callable[[], str]:
    return lambda: EC.token(svid_claims(**changes))


def with_header(**changes: Any) -> Callable[[], str]:
    return lambda: EC.token(svid_claims(), EC.header(**changes))


ACCEPTED = [
    pytest.param(with_claims(), AGENT, id="JV-1-valid"),
    *(
        pytest.param(lambda alg=alg: SIGNERS[alg].token(svid_claims()), AGENT, id=f"JV-2-{alg}")
        for alg in sorted(SIGNERS)
    ),
    pytest.param(with_claims(aud=["other", AUDIENCE]), AGENT, id="JV-9-audience-among-others"),
    pytest.param(with_claims(aud=AUDIENCE), AGENT, id="JV-10-audience-as-string"),
    pytest.param(with_header(typ=None), AGENT, id="JV-20-no-typ"),
    pytest.param(with_header(typ="JWT"), AGENT, id="JV-20-JWT"),
    pytest.param(with_header(typ="JOSE"), AGENT, id="JV-20-JOSE"),
    pytest.param(with_claims(exp=SECONDS + 0.5), AGENT, id="fractional-exp"),
    pytest.param(with_claims(exp=SECONDS - 9), AGENT, id="expired-within-leeway"),
    pytest.param(with_claims(nbf=SECONDS + 10), AGENT, id="not-before-within-leeway"),
    pytest.param(with_claims(iat=None), AGENT, id="no-iat"),
    pytest.param(with_claims(role="admin", nested={"a": [1, {"b": 2}]}), AGENT, id="private-claims-are-not-read"),
    pytest.param(
        lambda: PARTNER.token(svid_claims(sub="spiffe://partner.test/x")), "spiffe://partner.test/x", id="JB-8"
    ),
]


@pytest.mark.parametrize(("build", "expected"), ACCEPTED)
def test_valid_token_is_accepted(build: Callable[[], str], expected: str) -> None:
    assert str(verify(build()).spiffe_id) == expected


def hs256_with_public_key() -> str:
    """Algorithm confusion: the public key as an HMAC secret."""
    secret = EC.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header, payload = EC.header(alg="HS256"), svid_claims()
    signing_input = ".".join(b64url(json.dumps(part).encode()) for part in (header, payload))
    return f"{signing_input}.{b64url(hmac.digest(secret, signing_input.encode(), 'sha256'))}"


def unsigned() -> str:
    header, payload = {"alg": "none"}, svid_claims()
    return ".".join(b64url(json.dumps(part).encode()) for part in (header, payload)) + "."


def other_payload() -> str:
    header, _, signature = EC.token(svid_claims()).split(".")
    forged = b64url(json.dumps(svid_claims(sub="spiffe://example.org/admin")).encode())
    return f"{header}.{forged}.{signature}"


def json_serialization() -> str:
    protected, payload, signature = EC.token(svid_claims()).split(".")
    return json.dumps({"protected": protected, "payload": payload, "signature": signature})


def raw_claims(text: str) -> Callable[[], str]:
    """The valid claims with `text` put in front of the closing brace."""
    claims = json.dumps(svid_claims())
    return lambda: EC.token((claims[:-1] + text + "}").encode())


def raw_header(text: str) -> Callable[[], str]:
    header = json.dumps(EC.header())
    return lambda: EC.token(svid_claims(), (header[:-1] + text + "}").encode())


REFUSED = [
    pytest.param(unsigned, "three base64url parts", id="JV-3-none-without-signature"),
    pytest.param(with_header(alg="none"), "`alg` must be one of", id="JV-3-none-with-signature"),
    pytest.param(hs256_with_public_key, "`alg` must be one of", id="JV-4-hs256-with-the-public-key"),
    pytest.param(
        lambda: jwt.encode(svid_claims(), ED25519, algorithm="EdDSA", headers={"kid": "ed"}),
        "`alg` must be one of",
        id="JV-5-eddsa",
    ),
    pytest.param(with_header(alg="ES256K"), "`alg` must be one of", id="JV-5-es256k"),
    pytest.param(with_header(alg="es256"), "`alg` must be one of", id="alg-in-lower-case"),
    pytest.param(with_header(alg=["ES256"]), "header: nested deeper", id="alg-as-list"),
    pytest.param(with_header(alg=256), "`alg` must be one of", id="alg-as-number"),
    pytest.param(with_header(alg=None), "`alg` must be one of", id="no-alg"),
    pytest.param(with_header(alg="RS256"), "`alg` does not fit the key, expected one of ES256", id="JV-6-rs256-ec-key"),
    pytest.param(with_header(alg="ES384"), "`alg` does not fit the key, expected one of ES256", id="JV-6-es384-p256"),
    pytest.param(
        lambda: JwtSigner("rsa-ps256", ONLY_PS256.key, "RS256").token(svid_claims()),
        "`alg` does not fit the key, expected one of PS256",
        id="JV-6-rs256-with-a-ps256-key",
    ),
    pytest.param(with_claims(aud=None), "`aud` is missing", id="JV-7-no-aud"),
    pytest.param(with_claims(aud=[]), "`aud` is missing", id="JV-7-empty-aud"),
    pytest.param(with_claims(aud=[AUDIENCE, 1]), "`aud` is missing or not", id="aud-with-a-number"),
    pytest.param(with_claims(aud={AUDIENCE: 1}), "`aud` is missing or not", id="aud-as-object"),
    pytest.param(with_claims(aud=["other"]), "`aud` does not contain `authz-sidecar`", id="JV-8-other-aud"),
    pytest.param(with_claims(aud=AUDIENCE + "x"), "`aud` does not contain", id="JV-8-longer-aud"),
    pytest.param(with_claims(aud=AUDIENCE.upper()), "`aud` does not contain", id="JV-8-upper-case-aud"),
    pytest.param(with_claims(exp=None), "`exp` is missing", id="JV-11-no-exp"),
    pytest.param(raw_claims(', "exp": null'), "duplicate member", id="second-exp"),
    pytest.param(
        with_claims(exp=SECONDS - 10), "expired at 2026-03-01T11:59:50.000000Z", id="JV-12-expired-beyond-leeway"
    ),
    pytest.param(with_claims(exp=str(SECONDS + 300)), "`exp` is not a number", id="exp-as-string"),
    pytest.param(with_claims(exp=True), "`exp` is not a number", id="exp-as-boolean"),
    pytest.param(with_claims(exp=-1), "outside the years", id="exp-negative"),
    pytest.param(with_claims(exp=10**15), "outside the years", id="exp-beyond-the-calendar"),
    pytest.param(lambda: EC.token(b'{"sub":"spiffe://example.org/a","aud":"x","exp":NaN}'), "NaN", id="exp-nan"),
    pytest.param(with_claims(nbf=SECONDS + 11), "not valid before 2026-03-01T12:00:11", id="JV-13-not-before"),
    pytest.param(with_claims(nbf="0"), "`nbf` is not a number", id="nbf-as-string"),
    pytest.param(with_claims(iat=True), "`iat` is not a number", id="iat-as-boolean"),
    pytest.param(other_payload, "the signature does not verify", id="JV-15-payload-swapped"),
    pytest.param(
        lambda: JwtSigner("ec").token(svid_claims()), "the signature does not verify", id="same-kid-other-key"
    ),
    pytest.param(
        lambda: JwtSigner("gone").token(svid_claims()), "`kid` is not a jwt authority", id="JV-16-unknown-kid"
    ),
    pytest.param(with_header(kid=None), "`kid` is missing", id="no-kid"),
    pytest.param(with_header(kid=7), "`kid` is missing or not a string", id="kid-as-number"),
    pytest.param(
        lambda: PARTNER.token(svid_claims()),
        "not a jwt authority of trust domain `example.org`",
        id="JV-17-partner-speaks-for-us",
    ),
    pytest.param(
        with_claims(sub="spiffe://partner.test/x"),
        "not a jwt authority of trust domain `partner.test`",
        id="JV-17-we-speak-for-partner",
    ),
    pytest.param(with_claims(sub="spiffe://unknown.test/x"), "no trust bundle", id="JV-18-no-bundle"),
    pytest.param(with_claims(sub="spiffe://empty.test/x"), "not a jwt authority", id="JB-7-empty-bundle"),
    pytest.param(
        lambda: JwtSigner("wrong-use", EC.key).token(svid_claims()), "not a jwt authority", id="JB-5-x509-svid-use"
    ),
    pytest.param(with_claims(sub="agent"), "`sub` is not the SPIFFE ID of a workload", id="JV-19-no-spiffe-id"),
    pytest.param(with_claims(sub="spiffe://example.org"), "has no path", id="JV-19-root-path"),
    pytest.param(with_claims(sub="spiffe://example.org/a?x=1"), "malformed segment", id="ID-1-query"),
    pytest.param(with_claims(sub="spiffe://example.org/a%41"), "malformed segment", id="ID-1-percent"),
    pytest.param(with_claims(sub="spiffe://u@example.org/a"), "trust domain", id="ID-1-userinfo"),
    pytest.param(with_claims(sub=None), "`sub` is missing", id="no-sub"),
    pytest.param(with_claims(sub=[AGENT]), "`sub` is missing or not a string", id="sub-as-list"),
    pytest.param(raw_claims(f', "sub": "{AGENT}"'), "duplicate member", id="second-sub"),
    pytest.param(raw_claims(', "a": {"b": 1, "b": 2}'), "duplicate member", id="nested-duplicate"),
    pytest.param(raw_header(', "alg": "ES256"'), "duplicate member", id="second-alg"),
    pytest.param(with_header(typ="at+jwt"), "`typ` must be absent", id="JV-21-access-token"),
    pytest.param(with_header(typ="jwt"), "`typ` must be absent", id="JV-21-lower-case"),
    pytest.param(raw_header(', "crit": ["exp"]'), "header: nested deeper", id="JV-23-crit"),
    pytest.param(with_header(jku="https://evil.test/keys"), "`jku` must not be present", id="header-jku"),
    pytest.param(with_header(x5u="https://evil.test/x"), "`x5u` must not be present", id="header-x5u"),
    pytest.param(with_header(cty="JWT"), "`cty` must not be present", id="header-cty"),
    pytest.param(with_header(custom=1), "`custom` must not be present", id="header-private-member"),
    pytest.param(json_serialization, "three base64url parts", id="JV-24-json-serialization"),
    pytest.param(lambda: EC.token(svid_claims()) + "==", "three base64url parts", id="JV-25-padded-signature"),
    pytest.param(lambda: EC.token(svid_claims()) + ".", "three base64url parts", id="JV-25-four-parts"),
    pytest.param(lambda: EC.token(svid_claims()).rpartition(".")[0], "three base64url parts", id="JV-25-two-parts"),
    pytest.param(lambda: " " + EC.token(svid_claims()), "three base64url parts", id="JV-25-leading-space"),
    pytest.param(lambda: EC.token(svid_claims()) + "\n", "three base64url parts", id="JV-25-trailing-newline"),
    pytest.param(lambda: "", "three base64url parts", id="JV-25-empty"),
    pytest.param(lambda: "a.b\ud800.c", "three base64url parts", id="JV-25-lone-surrogate"),
    pytest.param(lambda: EC.token(b"[]"), "payload: not a JSON object", id="JV-25-payload-list"),
    pytest.param(lambda: EC.token(b"{"), "payload: not JSON", id="JV-25-payload-torn"),
    pytest.param(lambda: EC.token(b"\xff"), "payload: not UTF-8", id="JV-25-payload-not-utf-8"),
    pytest.param(with_claims(filler="x" * 8192), "longer than 8192 bytes", id="too-long"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_invalid_token_is_refused_naming_the_check(build: Callable[[], str], message: str) -> None:
    token = build()
    with pytest.raises(Unauthenticated) as refused:
        verify(token)
    assert message in refused.value.message
    assert refused.value.message.startswith("jwt-svid: ")


@pytest.mark.parametrize(("seconds_ago", "accepted"), [(0, False), (-1, True)])
def test_without_leeway_a_token_ends_at_exp(seconds_ago: int, accepted: bool) -> None:
    token = EC.token(svid_claims(exp=SECONDS - seconds_ago))
    if accepted:
        assert verify(token, leeway=timedelta(0)).not_after == NOW + timedelta(seconds=-seconds_ago)
    else:
        with pytest.raises(Unauthenticated, match="expired"):
            verify(token, leeway=timedelta(0))


def test_withdrawn_key_is_refused_at_once() -> None:
    token = EC.token(svid_claims())
    verifier = JwtSvidVerifier(AUDIENCE)
    verifier.verify(token, bundles=BUNDLES, now=NOW)
    without = BundleSet.of(parse_bundle(TrustDomain("example.org"), jwks(PARTNER.jwk())))
    with pytest.raises(Unauthenticated, match="not a jwt authority"):
        verifier.verify(token, bundles=without, now=NOW)


@pytest.mark.parametrize(("audience", "leeway"), [("", 0), (AUDIENCE, 31), (AUDIENCE, -1)])
def test_verifier_that_would_accept_too_much_can_not_be_built(audience: str, leeway: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        JwtSvidVerifier(audience, timedelta(seconds=leeway))
