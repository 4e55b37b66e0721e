from __future__ import annotations

import base64
import hashlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.bundle import BundleSet, parse_bundle
from authz_sidecar.identity.jwt_svid import JwtSvidVerifier
from authz_sidecar.identity.lru import RecentlyUsed
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain
from authz_sidecar.identity.subject import Subject
from authz_sidecar.identity.x509_svid import MalformedSvid, X509SvidVerifier, parse_x509_svid
from tests.support.identity import NOW, Authority, JwtSigner, Leaf, ec_key, jwks, key_pem, pem, svid_claims

AGENT = "spiffe://example.org/agent"
OURS = TrustDomain("example.org")
ROOT = Authority.root()


def bundles_of(*authorities: Authority) -> BundleSet:
    return BundleSet.of(parse_bundle(OURS, b"".join(pem(authority.certificate) for authority in authorities)))


BUNDLES = bundles_of(ROOT)


def verify(verifier: X509SvidVerifier, leaf: Leaf, bundles: BundleSet = BUNDLES, **after: int) -> Subject:
    return verifier.verify(
        leaf_pem=leaf.pem,
        intermediates_pem=leaf.intermediates_pem,
        bundles=bundles,
        now=NOW + timedelta(**after),
    )


def test_subject_carries_digest_thumbprint_and_end_of_the_certificate() -> None:
    leaf = ROOT.leaf(AGENT)
    digest = hashlib.sha256(leaf.certificate.public_bytes(Encoding.DER)).digest()

    assert verify(X509SvidVerifier(), leaf) == Subject(
        spiffe_id=SpiffeId.parse(AGENT),
        method="x509-svid",
        credential_sha256=digest.hex(),
        not_after=NOW + timedelta(hours=1),
        x5t_s256=base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
    )


def test_subject_ends_with_the_shortest_lived_certificate_of_its_path() -> None:
    leaf = ROOT.intermediate(not_after=NOW + timedelta(minutes=7)).leaf(AGENT)
    assert verify(X509SvidVerifier(), leaf).not_after == NOW + timedelta(minutes=7)


def test_remembered_certificate_is_still_refused_once_it_expired_and_before_it_is_valid() -> None:
    verifier, leaf = X509SvidVerifier(), ROOT.leaf(AGENT)
    first = verify(verifier, leaf)
    assert verify(verifier, leaf, minutes=59) is first

    with pytest.raises(Unauthenticated, match="expired at 2026-03-01T13:00:00"):
        verify(verifier, leaf, hours=1)
    assert verify(verifier, leaf) == first
    with pytest.raises(Unauthenticated, match="not valid before"):
        verify(verifier, leaf, minutes=-2)


def test_remembered_path_is_not_used_before_each_of_its_certificates_is_valid() -> None:
    verifier, leaf = X509SvidVerifier(), ROOT.intermediate(not_before=NOW - timedelta(seconds=30)).leaf(AGENT)
    verify(verifier, leaf)
    with pytest.raises(Unauthenticated, match="no path to an authority"):
        verify(verifier, leaf, seconds=-45)


def test_remembered_path_that_expired_gives_way_to_another_valid_one() -> None:
    key = ec_key()
    short = Authority.root(key=key, not_after=NOW + timedelta(minutes=10))
    long = Authority.root(key=key)
    both = bundles_of(short, long)
    verifier, leaf = X509SvidVerifier(), short.leaf(AGENT)

    verify(verifier, leaf, both)
    assert verify(verifier, leaf, both, minutes=11).not_after == NOW + timedelta(hours=1)


def test_remembered_certificate_is_refused_once_its_authority_is_removed() -> None:
    new_root = Authority.root()
    verifier, leaf = X509SvidVerifier(), ROOT.leaf(AGENT)
    verify(verifier, leaf, bundles_of(ROOT, new_root))

    with pytest.raises(Unauthenticated, match="no path to an authority"):
        verify(verifier, leaf, bundles_of(new_root))
    with pytest.raises(Unauthenticated, match="no trust bundle"):
        verify(verifier, leaf, BundleSet.of())


def test_remembered_leaf_does_not_carry_over_to_another_chain() -> None:
    verifier, leaf = X509SvidVerifier(), ROOT.intermediate().leaf(AGENT)
    verify(verifier, leaf)
    with pytest.raises(Unauthenticated, match="no path to an authority"):
        verify(verifier, Leaf(leaf.certificate, leaf.key))
    # The same bytes, split elsewhere.
    with pytest.raises(Unauthenticated, match="expected one leaf certificate, got 2"):
        verifier.verify(leaf_pem=leaf.chain_pem, intermediates_pem=b"", bundles=BUNDLES, now=NOW)


@pytest.mark.parametrize(
    ("leaf_pem", "intermediates_pem", "message"),
    [
        pytest.param(b"", b"", "no pem certificate", id="empty"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\n", b"", "certificate", id="torn"),
        pytest.param(pem(ROOT.certificate) + b"x" * 65536, b"", "chain longer than 65536 bytes", id="too-long"),
        pytest.param(ROOT.leaf(AGENT).pem, b"junk", "no pem certificate", id="junk-intermediates"),
        pytest.param(ROOT.leaf(AGENT).pem, pem(ROOT.certificate) * 9, "more than 8 intermediates", id="too-many"),
    ],
)
def test_unreadable_chain_is_refused(leaf_pem: bytes, intermediates_pem: bytes, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        X509SvidVerifier().verify(leaf_pem=leaf_pem, intermediates_pem=intermediates_pem, bundles=BUNDLES, now=NOW)


def auth_context(leaf: Leaf, **changes: list[bytes]) -> dict[str, list[bytes]]:
    """What gRPC reports for this peer."""
    context = {"transport_security_type": [b"ssl"], "x509_pem_cert": [leaf.pem], "peer_spiffe_id": [AGENT.encode()]}
    if leaf.intermediates:
        context["x509_pem_cert_chain"] = [leaf.intermediates_pem]
    return context | changes


@pytest.mark.parametrize("issuer", [ROOT, ROOT.intermediate()], ids=["direct", "intermediate"])
def test_peer_is_read_from_what_grpc_reports(issuer: Authority) -> None:
    subject = X509SvidVerifier().verify_peer(auth_context(issuer.leaf(AGENT)), bundles=BUNDLES, now=NOW)
    assert str(subject.spiffe_id) == AGENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"x509_pem_cert": []}, "no client certificate", id="no-certificate"),
        pytest.param({"x509_pem_cert": [b"a", b"b"]}, "2 values of `x509_pem_cert`", id="two-certificates"),
        pytest.param({"peer_spiffe_id": []}, "read another SPIFFE ID", id="no-peer-spiffe-id"),
        pytest.param({"peer_spiffe_id": [AGENT.encode() + b"2"]}, "read another SPIFFE ID", id="other-id"),
        pytest.param({"peer_spiffe_id": [AGENT.encode()] * 2}, "2 values of `peer_spiffe_id`", id="two-ids"),
    ],
)
def test_peer_that_the_tls_layer_saw_otherwise_is_refused(changes: dict[str, list[bytes]], message: str) -> None:
    verifier, leaf = X509SvidVerifier(), ROOT.leaf(AGENT)
    verifier.verify_peer(auth_context(leaf), bundles=BUNDLES, now=NOW)
    with pytest.raises(Unauthenticated, match=message):
        verifier.verify_peer(auth_context(leaf, **changes), bundles=BUNDLES, now=NOW)


def test_connection_without_tls_has_no_identity() -> None:
    with pytest.raises(Unauthenticated, match="no client certificate"):
        X509SvidVerifier().verify_peer({}, bundles=BUNDLES, now=NOW)


def test_remembered_token_is_still_refused_once_it_expired_and_before_it_is_valid() -> None:
    signer = JwtSigner()
    bundles = BundleSet.of(parse_bundle(OURS, jwks(signer.jwk())))
    token = signer.token(svid_claims(nbf=int(NOW.timestamp())))
    verifier = JwtSvidVerifier("authz-sidecar")
    first = verifier.verify(token, bundles=bundles, now=NOW)

    assert verifier.verify(token, bundles=bundles, now=NOW) is first
    with pytest.raises(Unauthenticated, match="expired"):
        verifier.verify(token, bundles=bundles, now=NOW + timedelta(seconds=310))
    with pytest.raises(Unauthenticated, match="not valid before"):
        verifier.verify(token, bundles=bundles, now=NOW - timedelta(seconds=11))


def test_jwt_subject_carries_digest_and_end_of_the_token_and_no_thumbprint() -> None:
    signer = JwtSigner()
    token = signer.token(svid_claims())
    bundles = BundleSet.of(parse_bundle(OURS, jwks(signer.jwk())))

    assert JwtSvidVerifier("authz-sidecar").verify(token, bundles=bundles, now=NOW) == Subject(
        spiffe_id=SpiffeId.parse(AGENT),
        method="jwt-svid",
        credential_sha256=hashlib.sha256(token.encode()).hexdigest(),
        not_after=NOW + timedelta(seconds=300),
        x5t_s256=None,
    )


def test_messages_never_quote_the_token() -> None:
    token = JwtSigner("other").token(svid_claims())
    with pytest.raises(Unauthenticated) as refused:
        JwtSvidVerifier("authz-sidecar").verify(
            token, bundles=BundleSet.of(parse_bundle(OURS, jwks(JwtSigner().jwk()))), now=NOW
        )
    assert not any(part in refused.value.message for part in token.split("."))


def test_memory_keeps_what_was_used_last_and_no_more() -> None:
    memory = RecentlyUsed[str](2)
    memory.put(b"a", "A")
    memory.put(b"b", "B")
    assert memory.get(b"a") == "A"
    memory.put(b"c", "C")
    assert (memory.get(b"a"), memory.get(b"b"), memory.get(b"c"), len(memory)) == ("A", None, "C", 2)
    memory.forget(b"a")
    assert memory.get(b"a") is None
    with pytest.raises(ValueError, match="at least 1"):
        RecentlyUsed[str](0)


def test_own_svid_is_read_with_its_chain() -> None:
    leaf = ROOT.intermediate().leaf(AGENT)
    svid = parse_x509_svid(leaf.chain_pem, leaf.key_pem)
    assert (str(svid.spiffe_id), svid.leaf, svid.not_after) == (AGENT, leaf.certificate, NOW + timedelta(hours=1))
    assert (svid.chain_pem, svid.key_pem) == (leaf.chain_pem, leaf.key_pem)


def test_own_svid_keeps_its_key_out_of_repr() -> None:
    leaf = ROOT.leaf(AGENT)
    assert "PRIVATE KEY" not in repr(parse_x509_svid(leaf.chain_pem, leaf.key_pem))


OWN = ROOT.intermediate().leaf(AGENT)
ENCRYPTED = OWN.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))


@pytest.mark.parametrize(
    ("chain", "key", "message"),
    [
        pytest.param(OWN.chain_pem, key_pem(ec_key()), "private key: belongs to another certificate", id="other-key"),
        pytest.param(OWN.chain_pem, b"", "private key: expected one unencrypted", id="no-key"),
        pytest.param(OWN.chain_pem, ENCRYPTED, "private key: expected one unencrypted", id="encrypted-key"),
        pytest.param(
            OWN.intermediates_pem + OWN.pem, OWN.key_pem, "names a trust domain, not a workload", id="ca-first"
        ),
        pytest.param(
            OWN.pem + pem(Authority.root().certificate), OWN.key_pem, "certificate 0 was not issued by", id="other-ca"
        ),
        pytest.param(b"", OWN.key_pem, "certificate: has no pem certificate", id="no-certificate"),
        pytest.param(OWN.pem + OWN.key_pem, OWN.key_pem, "certificate: has a `PRIVATE KEY` block", id="key-in-chain"),
    ],
)
def test_own_svid_that_peers_would_refuse_is_not_loaded(chain: bytes, key: bytes, message: str) -> None:
    with pytest.raises(MalformedSvid) as refused:
        parse_x509_svid(chain, key)
    assert message in str(refused.value)
