from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.bundle import BundleSet, MalformedBundle, parse_bundle
from authz_sidecar.identity.jwt_svid import JwtSvidVerifier
from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, SpiffeId, TrustDomain
from authz_sidecar.identity.x509_svid import X509SvidVerifier
from authz_sidecar.verifier import base64url
from tests.support.identity import NOW, Authority, JwtSigner, jwks, pem, svid_claims, x509_jwk

# The library warns about certificates it will refuse one day; here only the outcome counts.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

# A busy machine is no counterexample.
however_long = settings(deadline=None)

OURS = TrustDomain("example.org")
AGENT = "spiffe://example.org/agent"
ROOT = Authority.root()
SIGNER = JwtSigner()
BUNDLE = jwks(x509_jwk(ROOT), SIGNER.jwk())
BUNDLES = BundleSet.of(parse_bundle(OURS, BUNDLE))

spiffe_like = st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            ["spiffe://", "spiffe:/", "/", "//", "example.org", ".", "..", "a", "Z", "%41", "?", "#", ":1", "@"]
        )
        | st.text(max_size=3),
        max_size=8,
    ),
)


@however_long
@given(st.text() | spiffe_like)
def test_spiffe_id_is_refused_or_reads_back_as_written(text: str) -> None:
    try:
        parsed = SpiffeId.parse(text)
    except MalformedSpiffeId:
        return
    assert str(parsed) == text
    assert SpiffeId.parse(str(parsed)) == parsed


segments = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda segment: segment not in (".", ".."))


@however_long
@given(st.text("abcxyz019._-", min_size=1, max_size=40), st.lists(segments, min_size=1, max_size=6))
def test_every_spiffe_id_of_the_grammar_is_accepted(trust_domain: str, path: list[str]) -> None:
    parsed = SpiffeId.parse_workload(f"spiffe://{trust_domain}/{'/'.join(path)}")
    assert (parsed.trust_domain.name, parsed.path) == (trust_domain, "/" + "/".join(path))


@however_long
@given(st.binary(max_size=40))
def test_base64url_reads_back_what_it_wrote(raw: bytes) -> None:
    assert base64url.decode(base64url.encode(raw)) == raw


@however_long
@given(st.text("ABCab-_019=+/ \n", max_size=12) | st.text(max_size=6))
def test_base64url_has_one_spelling_per_value(text: str) -> None:
    try:
        raw = base64url.decode(text)
    except ValueError:
        return
    assert base64url.encode(raw) == text


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
members = st.dictionaries(
    st.sampled_from(["kty", "use", "kid", "alg", "crv", "x", "y", "n", "e", "x5c", "d", "k"]),
    scalars
    | st.sampled_from(["EC", "RSA", "oct", "OKP", "x509-svid", "jwt-svid", "P-256", "P-521", "ES256", "AQAB"])
    | st.lists(scalars, max_size=2),
)
altered_entries = st.builds(
    lambda entry, changes, dropped: {k: v for k, v in {**entry, **changes}.items() if k not in dropped},
    st.sampled_from([x509_jwk(ROOT), SIGNER.jwk()]),
    members,
    st.sets(st.sampled_from(["kty", "use", "kid", "x", "y", "x5c"]), max_size=1),
)


@however_long
@given(st.lists(members | altered_entries | scalars, max_size=4))
def test_bundle_of_any_entries_is_read_or_refused(entries: list[Any]) -> None:
    try:
        bundle = parse_bundle(OURS, json.dumps({"keys": entries}).encode())
    except MalformedBundle:
        return
    assert len(bundle.x509_authorities) + len(bundle.jwt_keys) <= len(entries)
    assert all(authority == ROOT.certificate for authority in bundle.x509_authorities)


@however_long
@given(
    st.binary(max_size=64),
    st.sampled_from([b"", b"{", b"-----BEGIN CERTIFICATE-----\n", BUNDLE, pem(ROOT.certificate)]),
)
def test_bundle_of_any_bytes_is_read_or_refused(tail: bytes, head: bytes) -> None:
    try:
        parse_bundle(OURS, head + tail)
    except MalformedBundle:
        return


@however_long
@given(st.data())
def test_altered_bundle_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([BUNDLE, pem(ROOT.certificate)])))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_bundle(OURS, bytes(raw))
    except MalformedBundle:
        return


def test_every_flipped_bit_of_a_ca_certificate_is_read_or_refused() -> None:
    der = ROOT.certificate.public_bytes(Encoding.DER)
    entry = x509_jwk(ROOT)
    for altered in flipped(der):
        try:
            parse_bundle(OURS, jwks({**entry, "x5c": [base64.b64encode(altered).decode()]}))
        except MalformedBundle:
            continue


def test_token_with_any_bit_flipped_is_refused() -> None:
    token = SIGNER.token(svid_claims())
    verifier = JwtSvidVerifier("authz-sidecar")
    assert str(verifier.verify(token, bundles=BUNDLES, now=NOW).spiffe_id) == AGENT
    for altered in flipped(token.encode()):
        with pytest.raises(Unauthenticated):
            verifier.verify(altered.decode("latin-1"), bundles=BUNDLES, now=NOW)


@however_long
@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}", fullmatch=True))
def test_any_text_as_token_is_refused_as_unauthenticated(text: str) -> None:
    with pytest.raises(Unauthenticated):
        JwtSvidVerifier("authz-sidecar").verify(text, bundles=BUNDLES, now=NOW)


json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)


@however_long
@given(
    st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "iat", "jti"]), json_values, min_size=1),
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit"]), json_values),
)
def test_signed_token_with_any_claims_is_accepted_or_unauthenticated(
    claims: dict[str, Any], header: dict[str, Any]
) -> None:
    token = SIGNER.token(svid_claims(**claims), SIGNER.header(**header))
    try:
        subject = JwtSvidVerifier("authz-sidecar").verify(token, bundles=BUNDLES, now=NOW)
    except Unauthenticated:
        return
    assert str(subject.spiffe_id) == AGENT


def test_certificate_with_any_bit_flipped_is_refused_unless_everything_signed_is_untouched() -> None:
    leaf = ROOT.leaf(AGENT, dns=["agent"])
    verifier = X509SvidVerifier()
    verifier.verify(leaf_pem=leaf.pem, intermediates_pem=b"", bundles=BUNDLES, now=NOW)
    accepted = []
    for altered in flipped(leaf.certificate.public_bytes(Encoding.DER)):
        altered_pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(altered) + b"\n-----END CERTIFICATE-----\n"
        try:
            verifier.verify(leaf_pem=altered_pem, intermediates_pem=b"", bundles=BUNDLES, now=NOW)
        except Unauthenticated:
            continue
        accepted.append(x509.load_der_x509_certificate(altered))
    # The count of unused bits before the signature is not signed, and ignored where those bits are zero.
    assert len(accepted) <= 7
    assert all(
        (one.tbs_certificate_bytes, one.signature)
        == (leaf.certificate.tbs_certificate_bytes, leaf.certificate.signature)
        for one in accepted
    )


@however_long
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_as_chain_are_refused_as_unauthenticated(leaf: bytes, intermediates: bytes) -> None:
    with pytest.raises(Unauthenticated):
        X509SvidVerifier().verify(leaf_pem=leaf, intermediates_pem=intermediates, bundles=BUNDLES, now=NOW)


def flipped(raw: bytes) -> list[bytes]:
    """Every copy of `raw` that differs in one bit."""
    copies = []
    for position in range(len(raw)):
        for bit in range(8):
            copy = bytearray(raw)
            copy[position] ^= 1 << bit
            copies.append(bytes(copy))
    return copies
