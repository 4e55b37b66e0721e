from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from authz_sidecar.errors import OperatorError
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.bundle import BundleSet, parse_bundle
from authz_sidecar.identity.jwt_svid import JwtSvidVerifier
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain
from authz_sidecar.identity.x509_svid import X509SvidVerifier, parse_x509_svid
from tests.support.identity import NOW, Authority, ec_key, key_pem, pem

OURS = TrustDomain("example.org")
AGENT = SpiffeId.parse("spiffe://example.org/agent")
HOUR = timedelta(hours=1)


@pytest.fixture
def authority() -> DevAuthority:
    return DevAuthority.create(OURS, NOW)


def bundles(authority: DevAuthority) -> BundleSet:
    return BundleSet.of(parse_bundle(OURS, authority.bundle_json()))


def x509_subject(authority: DevAuthority, trusted: DevAuthority) -> SpiffeId:
    chain, _ = authority.issue_x509_svid(AGENT, ttl=HOUR, now=NOW)
    verifier = X509SvidVerifier()
    return verifier.verify(leaf_pem=chain, intermediates_pem=b"", bundles=bundles(trusted), now=NOW).spiffe_id


def jwt_subject(authority: DevAuthority, trusted: DevAuthority) -> SpiffeId:
    token = authority.issue_jwt_svid(AGENT, audience="authz-sidecar", ttl=HOUR, now=NOW)
    return JwtSvidVerifier("authz-sidecar").verify(token, bundles=bundles(trusted), now=NOW).spiffe_id


def test_issued_svids_are_accepted_by_its_bundle(authority: DevAuthority) -> None:
    assert x509_subject(authority, authority) == AGENT
    assert jwt_subject(authority, authority) == AGENT


def test_issued_certificate_has_the_requested_names_and_life(authority: DevAuthority) -> None:
    chain, key = authority.issue_x509_svid(AGENT, dns_names=["localhost", "agent"], ttl=HOUR, now=NOW)
    svid = parse_x509_svid(chain, key)
    names = svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "agent"]
    assert (svid.leaf.not_valid_before_utc, svid.not_after) == (NOW - timedelta(seconds=10), NOW + HOUR)


def test_svid_never_outlives_the_authority(authority: DevAuthority) -> None:
    chain, key = authority.issue_x509_svid(AGENT, ttl=timedelta(days=4000), now=NOW)
    assert parse_x509_svid(chain, key).not_after == NOW + timedelta(days=365)


@pytest.mark.parametrize("spiffe_id", ["spiffe://partner.test/agent", "spiffe://example.org"])
def test_authority_issues_only_workloads_of_its_own_trust_domain(authority: DevAuthority, spiffe_id: str) -> None:
    with pytest.raises(ValueError, match=r"expected a SPIFFE ID with a path in `example\.org`"):
        authority.issue_x509_svid(SpiffeId.parse(spiffe_id), ttl=HOUR, now=NOW)
    with pytest.raises(ValueError, match=r"expected a SPIFFE ID with a path in `example\.org`"):
        authority.issue_jwt_svid(SpiffeId.parse(spiffe_id), audience="a", ttl=HOUR, now=NOW)


def test_saved_authority_issues_for_the_same_bundle_after_a_restart(authority: DevAuthority, tmp_path: Path) -> None:
    authority.save(tmp_path)
    restarted = DevAuthority.load(tmp_path)
    assert restarted.bundle_json() == authority.bundle_json()
    assert x509_subject(restarted, authority) == AGENT
    assert jwt_subject(restarted, authority) == AGENT
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_saved_authority_is_never_overwritten(authority: DevAuthority, tmp_path: Path) -> None:
    authority.save(tmp_path)
    with pytest.raises(OperatorError, match=r"ca-key.pem` exists"):
        DevAuthority.create(OURS, NOW).save(tmp_path)
    assert DevAuthority.load(tmp_path).bundle_json() == authority.bundle_json()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ca.pem", None, "can not read"),
        ("jwt-key.pem", b"garbage", "not a development authority"),
        ("ca-key.pem", key_pem(ec_key()), "the CA key belongs to another certificate"),
        ("ca.pem", pem(Authority.root().certificate), "the CA key belongs to another certificate"),
        ("ca.pem", b"", "has no pem certificate"),
    ],
)
def test_damaged_authority_is_refused(
    authority: DevAuthority, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    authority.save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OperatorError, match=message):
        DevAuthority.load(tmp_path)
