from __future__ import annotations

import base64
import json
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz_sidecar.identity.bundle import (
    MAX_BUNDLE_BYTES,
    BundleSet,
    MalformedBundle,
    TrustBundle,
    bundle_to_json,
    parse_bundle,
)
from authz_sidecar.identity.jwk import parse_public_key, thumbprint
from authz_sidecar.identity.spiffe_id import TrustDomain
from tests.support.identity import Authority, JwtSigner, jwks, key_pem, pem, uint, x509_jwk

OURS = TrustDomain("example.org")
ROOT = Authority.root()
OTHER_ROOT = Authority.root()
LEAF = ROOT.leaf("spiffe://example.org/agent")
EC = JwtSigner("ec")
RSA = JwtSigner("rsa", rsa.generate_private_key(65537, 2048), "RS256")


def parse(raw: bytes) -> TrustBundle:
    return parse_bundle(OURS, raw)


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


def test_spiffe_bundle_gives_the_authorities_of_each_use() -> None:
    bundle = parse(jwks(x509_jwk(ROOT), EC.jwk(), RSA.jwk(), x509_jwk(OTHER_ROOT)))

    assert bundle.trust_domain == OURS
    assert bundle.x509_authorities == (ROOT.certificate, OTHER_ROOT.certificate)
    assert {kid: key.algorithms for kid, key in bundle.jwt_keys.items()} == {
        "ec": {"ES256"},
        "rsa": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
    }
    assert bundle.jwt_keys["ec"].public_key == EC.key.public_key()


def test_pem_bundle_gives_x509_authorities_only() -> None:
    bundle = parse(b"# production roots\n" + pem(ROOT.certificate) + pem(OTHER_ROOT.certificate))

    assert bundle.x509_authorities == (ROOT.certificate, OTHER_ROOT.certificate)
    assert not bundle.jwt_keys


def test_empty_keys_is_a_bundle_that_trusts_nothing() -> None:
    bundle = parse(b'{"keys": [], "spiffe_sequence": 7}')
    assert (bundle.x509_authorities, dict(bundle.jwt_keys)) == ((), {})


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(EC.jwk(use="wit-svid"), id="unknown-use"),
        pytest.param(EC.jwk(use="JWT-SVID"), id="use-is-case-sensitive"),
        pytest.param(without(EC.jwk(), "use"), id="no-use"),
        pytest.param(EC.jwk(kty="AKP"), id="unknown-kty"),
        pytest.param({"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "ed", "use": "jwt-svid"}, id="okp"),
        pytest.param(EC.jwk(crv="secp256k1"), id="unknown-curve"),
        pytest.param(without(x509_jwk(OTHER_ROOT), "x5c"), id="x509-svid-without-x5c"),
        pytest.param({**x509_jwk(OTHER_ROOT), "x5c": []}, id="x509-svid-with-empty-x5c"),
    ],
)
def test_entry_of_an_unknown_kind_is_ignored_and_the_rest_kept(entry: dict[str, Any]) -> None:
    bundle = parse(jwks(entry, x509_jwk(ROOT), RSA.jwk()))
    assert bundle.x509_authorities == (ROOT.certificate,)
    assert list(bundle.jwt_keys) == ["rsa"]


def test_only_the_first_certificate_of_x5c_counts() -> None:
    entry = x509_jwk(ROOT)
    entry["x5c"] += x509_jwk(OTHER_ROOT)["x5c"]
    assert parse(jwks(entry)).x509_authorities == (ROOT.certificate,)


ANY_RSA_1024 = {"kty": "RSA", "n": base64.urlsafe_b64encode(b"\xff" * 128).rstrip(b"=").decode(), "e": "AQAB"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"", "expected a SPIFFE bundle", id="empty-file"),
        pytest.param(b"not a bundle", "expected a SPIFFE bundle", id="text"),
        pytest.param(b"[]", "expected a SPIFFE bundle", id="json-list"),
        pytest.param(b"{}", "`keys` is missing", id="no-keys"),
        pytest.param(b'{"keys": {}}', "`keys` is missing or not a list", id="keys-not-a-list"),
        pytest.param(b'{"keys": [1]}', "`keys[0]` is not an object", id="entry-not-an-object"),
        pytest.param(b'{"keys": [], "keys": []}', "duplicate member", id="duplicate-keys-member"),
        pytest.param(
            jwks(EC.jwk()).replace(b'"kid":', b'"use": "jwt-svid", "kid":'), "duplicate member", id="duplicate-use"
        ),
        pytest.param(b'{"keys": [' + b" " * MAX_BUNDLE_BYTES + b"]}", "longer than", id="too-long"),
        pytest.param(jwks(*[EC.jwk()] * 257), "257 entries", id="too-many-keys"),
        pytest.param(
            jwks({"kty": "oct", "k": "AAAA", "kid": "s", "use": "jwt-svid"}), "secret key material", id="symmetric-key"
        ),
        pytest.param(jwks({"kty": "oct", "kid": "s", "use": "jwt-svid"}), "secret key material", id="symmetric-kty"),
        pytest.param(jwks(EC.jwk(d="AAAA")), "secret key material", id="private-key"),
        pytest.param(jwks(without(EC.jwk(), "kty")), "`kty` is missing", id="no-kty"),
        pytest.param(jwks(without(EC.jwk(), "kid")), "`keys[0].kid` is missing", id="no-kid"),
        pytest.param(jwks(EC.jwk(kid="")), "`keys[0].kid` is missing", id="empty-kid"),
        pytest.param(jwks(EC.jwk(), JwtSigner("ec").jwk()), "`keys[1]` repeats a `kid`", id="duplicate-kid"),
        pytest.param(jwks(EC.jwk(alg="RS256")), "`keys[0].alg` does not fit", id="alg-of-another-family"),
        pytest.param(jwks(EC.jwk(alg="ES384")), "`keys[0].alg` does not fit", id="alg-of-another-curve"),
        pytest.param(jwks(RSA.jwk(alg="none")), "`keys[0].alg` does not fit", id="alg-none"),
        pytest.param(jwks(EC.jwk(x="AAAA")), "have to be 32 bytes", id="short-coordinate"),
        pytest.param(jwks(EC.jwk(x=EC.jwk()["y"])), "not a point on P-256", id="off-the-curve"),
        pytest.param(jwks(EC.jwk(x=EC.jwk()["x"] + "=")), "not base64url", id="padded-coordinate"),
        pytest.param(jwks({**RSA.jwk(), "n": "AA" + RSA.jwk()["n"]}), "leading zero", id="rsa-leading-zero"),
        pytest.param(jwks({**RSA.jwk(), "e": "Ag"}), "not an rsa public key", id="rsa-even-exponent"),
        pytest.param(jwks({**RSA.jwk(), "e": uint(2**33 + 1)}), "longer than 32 bits", id="rsa-huge-exponent"),
        pytest.param(jwks({**RSA.jwk(), **ANY_RSA_1024}), "1024 bits", id="rsa-1024"),
        pytest.param(jwks({**x509_jwk(ROOT), "x5c": "AAAA"}), "not a list of strings", id="x5c-not-a-list"),
        pytest.param(jwks({**x509_jwk(ROOT), "x5c": ["%"]}), "not base64", id="x5c-not-base64"),
        pytest.param(jwks({**x509_jwk(ROOT), "x5c": ["AB=="]}), "not canonical base64", id="x5c-unused-bits"),
        pytest.param(jwks({**x509_jwk(ROOT), "x5c": ["AAAA"]}), "not a readable certificate", id="x5c-garbage"),
        pytest.param(
            jwks({**x509_jwk(ROOT), "x5c": x509_jwk(OTHER_ROOT)["x5c"]}), "for another key", id="x5c-of-another-key"
        ),
        pytest.param(
            jwks(x509_jwk(Authority(LEAF.certificate, LEAF.key))), "`keys[0].x5c[0]` is not a CA", id="leaf-in-jwks"
        ),
        pytest.param(pem(ROOT.certificate) + LEAF.pem, "`certificate 1` is not a CA", id="leaf-in-pem"),
        pytest.param(pem(ROOT.certificate) + key_pem(ROOT.key), "`PRIVATE KEY` block", id="private-key-in-pem"),
        pytest.param(pem(ROOT.certificate)[:-30], "certificate", id="torn-pem"),
        pytest.param(pem(ROOT.certificate) + pem(OTHER_ROOT.certificate)[:-30], "certificate", id="torn-second-pem"),
        pytest.param(pem(ROOT.certificate) * 257, "257 certificates", id="too-many-certificates"),
    ],
)
def test_malformed_bundle_is_refused_whole_naming_the_entry(raw: bytes, message: str) -> None:
    with pytest.raises(MalformedBundle) as refused:
        parse(raw)
    assert message in str(refused.value)


def test_message_never_quotes_key_material() -> None:
    secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"
    with pytest.raises(MalformedBundle) as refused:
        parse(jwks({"kty": "oct", "k": secret, "kid": "s", "use": "jwt-svid"}))
    assert secret not in str(refused.value)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_written_bundle_reads_back_as_the_same_authorities(curve: ec.EllipticCurve) -> None:
    signer = JwtSigner("k", ec.generate_private_key(curve))
    bundle = parse(jwks(x509_jwk(ROOT), signer.jwk(), RSA.jwk()))

    raw = bundle_to_json(bundle, sequence=3, refresh_hint=timedelta(minutes=5))

    again = parse(raw)
    assert again.x509_authorities == bundle.x509_authorities
    assert again.jwt_keys == bundle.jwt_keys
    assert {name: json.loads(raw)[name] for name in ("spiffe_sequence", "spiffe_refresh_hint")} == {
        "spiffe_sequence": 3,
        "spiffe_refresh_hint": 300,
    }


def test_version_of_a_set_changes_with_any_byte_and_with_any_name() -> None:
    raw = jwks(x509_jwk(ROOT))
    partner = TrustDomain("partner.test")
    sets = [
        BundleSet.of(parse(raw)),
        BundleSet.of(parse(raw + b"\n")),
        BundleSet.of(parse_bundle(partner, raw)),
        BundleSet.of(parse(raw), parse_bundle(partner, raw)),
        BundleSet.of(),
    ]
    assert len({one.version for one in sets}) == len(sets)
    assert BundleSet.of(parse_bundle(partner, raw), parse(raw)).version == sets[3].version


def test_bundle_can_not_be_filed_under_another_trust_domain() -> None:
    with pytest.raises(ValueError, match=r"`partner.test` was filed under `example.org`"):
        BundleSet({OURS: parse_bundle(TrustDomain("partner.test"), jwks())})


def test_set_of_bundles_can_not_be_changed() -> None:
    source = {OURS: parse(jwks())}
    bundles = BundleSet(source)
    source.clear()
    assert bundles.get(OURS) is not None
    assert isinstance(bundles.bundles, MappingProxyType)


def test_roots_for_the_handshake_are_those_of_every_trust_domain() -> None:
    partner_root = Authority.root("partner.test")
    partner = parse_bundle(TrustDomain("partner.test"), pem(partner_root.certificate))
    bundles = BundleSet.of(parse(jwks(x509_jwk(ROOT), EC.jwk())), partner)
    assert bundles.x509_roots_pem() == pem(ROOT.certificate) + pem(partner_root.certificate)


def test_thumbprints_match_published_vectors() -> None:
    """RFC 7638 section 3.1 (RSA) and RFC 9449 section 6.1 (EC)."""
    rsa_key = parse_public_key(
        {
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV"
            "4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zg"
            "dAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
            "kEgU8awapJzKnqDKgw",
            "e": "AQAB",
        }
    )
    ec_key = parse_public_key(
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        }
    )
    assert rsa_key is not None
    assert ec_key is not None
    assert thumbprint(rsa_key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert thumbprint(ec_key) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
