"""X.509-SVID validation, case by case: X509-SVID sections 2 to 5, and federation (Workload API section 4.6).

Every refused certificate differs in one thing from a certificate that is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import MappingProxyType

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.bundle import BundleSet, TrustBundle
from authz_sidecar.identity.spiffe_id import TrustDomain
from authz_sidecar.identity.subject import Subject
from authz_sidecar.identity.x509_svid import X509SvidVerifier
from tests.support.identity import BOTH_PURPOSES, EMPTY_SUBJECT, NOW, Authority, Leaf, key_usage

AGENT = "spiffe://example.org/agent"
PARTNER_AGENT = "spiffe://partner.test/agent"
ROOT = Authority.root("example.org")
PARTNER_ROOT = Authority.root("partner.test")


def bundle_of(trust_domain: str, *authorities: Authority) -> TrustBundle:
    return TrustBundle(
        trust_domain=TrustDomain(trust_domain),
        x509_authorities=tuple(authority.certificate for authority in authorities),
        jwt_keys=MappingProxyType({}),
        version=" ".join(str(authority.certificate.serial_number) for authority in authorities),
    )


BUNDLES = BundleSet.of(bundle_of("example.org", ROOT), bundle_of("partner.test", PARTNER_ROOT))


def verify(leaf: Leaf, bundles: BundleSet = BUNDLES, after: timedelta = timedelta()) -> Subject:
    return X509SvidVerifier().verify(
        leaf_pem=leaf.pem, intermediates_pem=leaf.intermediates_pem, bundles=bundles, now=NOW + after
    )


ACCEPTED = [
    pytest.param(lambda: ROOT.leaf(AGENT), AGENT, id="XV-1-plain"),
    pytest.param(lambda: ROOT.intermediate().leaf(AGENT), AGENT, id="XV-2-one-intermediate"),
    pytest.param(lambda: ROOT.intermediate().intermediate().leaf(AGENT), AGENT, id="XV-2-two-intermediates"),
    pytest.param(lambda: ROOT.leaf(AGENT, dns=["agent.internal", "localhost"]), AGENT, id="XV-3-dns-sans"),
    pytest.param(lambda: ROOT.leaf(AGENT, subject=EMPTY_SUBJECT), AGENT, id="XV-4-empty-subject-critical-san"),
    pytest.param(lambda: ROOT.leaf(AGENT, purposes=None), AGENT, id="no-extended-key-usage"),
    pytest.param(
        lambda: ROOT.leaf(AGENT, usage=key_usage("digital_signature", "key_encipherment", "key_agreement")),
        AGENT,
        id="key-encipherment-and-agreement",
    ),
    pytest.param(
        lambda: ROOT.leaf("spiffe://example.org/Ns/a-b_c.d/0"), "spiffe://example.org/Ns/a-b_c.d/0", id="ID-2-path"
    ),
    pytest.param(lambda: PARTNER_ROOT.leaf(PARTNER_AGENT), PARTNER_AGENT, id="XF-1-federated"),
]


@pytest.mark.parametrize(("build", "expected"), ACCEPTED)
def test_valid_svid_is_accepted(build: Callable[[], Leaf], expected: str) -> None:
    assert str(verify(build()).spiffe_id) == expected


def constraints(*, ca: bool) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=ca, path_length=None)


def signed_by_a_leaf() -> Leaf:
    middle = ROOT.leaf("spiffe://example.org/middle")
    return Authority(middle.certificate, middle.key, (middle.certificate,)).leaf(AGENT)


def uri_constrained_root() -> Authority:
    return Authority.root(extra=[(x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None), True)])


REFUSED = [
    pytest.param(lambda: ROOT.leaf(dns=["agent"]), "exactly one uri san, got 0", id="XV-12-no-uri"),
    pytest.param(ROOT.leaf, "exactly one uri san, got 0", id="XV-12-no-san"),
    pytest.param(lambda: ROOT.leaf(AGENT, AGENT + "2"), "exactly one uri san, got 2", id="XV-11-two-spiffe-ids"),
    pytest.param(
        lambda: ROOT.leaf(AGENT, "https://example.org/agent"), "exactly one uri san, got 2", id="XV-11-other-uri"
    ),
    pytest.param(lambda: ROOT.leaf("https://example.org/agent"), "does not start with `spiffe://`", id="XV-13-https"),
    pytest.param(lambda: ROOT.leaf("SPIFFE://example.org/agent"), "does not start with", id="ID-1-upper-case-scheme"),
    pytest.param(lambda: ROOT.leaf("spiffe://example.org"), "has no path", id="XV-14-root-path"),
    pytest.param(lambda: ROOT.leaf("spiffe://example.org/"), "empty, relative or malformed", id="XV-14-bare-slash"),
    pytest.param(lambda: ROOT.leaf("spiffe://Example.org/agent"), "trust domain", id="ID-1-upper-case-domain"),
    pytest.param(lambda: ROOT.leaf("spiffe://example.org:8443/agent"), "trust domain", id="ID-1-port"),
    pytest.param(lambda: ROOT.leaf("spiffe://example.org/a/../b"), "relative", id="ID-1-dot-segments"),
    pytest.param(
        lambda: ROOT.leaf(AGENT, basic_constraints=constraints(ca=True)), "expected CA:FALSE", id="XV-8-ca-true"
    ),
    pytest.param(lambda: ROOT.leaf(AGENT, basic_constraints=None), "no basic constraints", id="no-basic-constraints"),
    pytest.param(lambda: ROOT.leaf(AGENT, usage=None), "no key usage", id="no-key-usage"),
    pytest.param(lambda: ROOT.leaf(AGENT, usage_critical=False), "not marked critical", id="key-usage-not-critical"),
    pytest.param(
        lambda: ROOT.leaf(AGENT, usage=key_usage("key_agreement")), "lacks digitalSignature", id="no-digital-signature"
    ),
    pytest.param(
        lambda: ROOT.leaf(AGENT, usage=key_usage("digital_signature", "key_cert_sign")),
        "x509-svid: key usage has keyCertSign",
        id="XV-9-key-cert-sign",
    ),
    pytest.param(
        lambda: ROOT.leaf(AGENT, usage=key_usage("digital_signature", "crl_sign")),
        "x509-svid: key usage has cRLSign",
        id="XV-10-crl-sign",
    ),
    pytest.param(lambda: ROOT.leaf(AGENT, purposes=BOTH_PURPOSES[:1]), "lacks clientAuth", id="only-server-auth"),
    pytest.param(lambda: ROOT.leaf(AGENT, purposes=BOTH_PURPOSES[1:]), "lacks serverAuth", id="only-client-auth"),
    pytest.param(
        lambda: ROOT.leaf(AGENT, purposes=[ExtendedKeyUsageOID.CODE_SIGNING]), "lacks serverAuth", id="other-purpose"
    ),
    pytest.param(
        lambda: ROOT.leaf(AGENT, subject=EMPTY_SUBJECT, san_critical=False),
        "subjectAltName MUST be critical",
        id="empty-subject-san-not-critical",
    ),
    pytest.param(
        lambda: ROOT.leaf(AGENT, not_after=NOW),
        "x509-svid: expired at 2026-03-01T12:00:00.000000Z",
        id="XV-6-expired-this-second",
    ),
    pytest.param(
        lambda: ROOT.leaf(AGENT, not_before=NOW + timedelta(seconds=1)),
        "not valid before 2026-03-01T12:00:01.000000Z",
        id="XV-7-not-yet-valid",
    ),
    pytest.param(
        lambda: Authority.root("example.org").leaf(AGENT), "no path to an authority", id="XV-5-other-root-same-domain"
    ),
    pytest.param(
        # The same issuer name as the real root, so that only the signature is wrong.
        lambda: Authority.root(name=ROOT.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value).leaf(
            AGENT
        ),
        "no path to an authority",
        id="XV-5-forged-issuer-name",
    ),
    pytest.param(
        lambda: Leaf(ROOT.intermediate().leaf(AGENT).certificate, ROOT.key), "no path", id="intermediate-not-sent"
    ),
    pytest.param(
        lambda: ROOT.intermediate(path_length=0).intermediate().leaf(AGENT),
        "path length constraint violated",
        id="path-length-exceeded",
    ),
    pytest.param(
        lambda: ROOT.intermediate(not_after=NOW - timedelta(seconds=1)).leaf(AGENT),
        "no path to an authority",
        id="expired-intermediate",
    ),
    pytest.param(
        lambda: ROOT.intermediate(not_after=NOW).leaf(AGENT),
        "a certificate of the path expired at 2026-03-01T12:00:00.000000Z",
        id="intermediate-expired-this-second",
    ),
    pytest.param(
        signed_by_a_leaf,
        "no path to an authority",
        id="leaf-as-intermediate",
    ),
    pytest.param(
        lambda: ROOT.intermediate(uri="spiffe://partner.test").leaf(AGENT),
        "belongs to trust domain `partner.test`",
        id="issuer-of-another-trust-domain",
    ),
    pytest.param(
        lambda: ROOT.intermediate(uri="spiffe://example.org/agent").leaf(AGENT),
        "issuer has the SPIFFE ID of a workload",
        id="issuer-with-a-path",
    ),
    pytest.param(
        lambda: PARTNER_ROOT.leaf(AGENT),
        "no path to an authority of trust domain `example.org`",
        id="XF-2-theirs-as-us",
    ),
    pytest.param(
        lambda: ROOT.leaf(PARTNER_AGENT), "no path to an authority of trust domain `partner.test`", id="XF-2-us-as-them"
    ),
    pytest.param(
        lambda: ROOT.leaf("spiffe://unknown.test/agent"), "no trust bundle for trust domain", id="XV-15-no-bundle"
    ),
    pytest.param(
        lambda: ROOT.leaf("spiffe://sub.example.org/agent"), "no trust bundle for trust domain", id="XV-15-subdomain"
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_invalid_svid_is_refused_naming_the_check(build: Callable[[], Leaf], message: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        verify(build())
    assert message in refused.value.message
    assert refused.value.message.startswith("x509-svid: ")


def test_chain_with_uri_name_constraints_is_refused_because_nobody_checks_them() -> None:
    constrained = uri_constrained_root()
    with pytest.raises(Unauthenticated, match="unsupported name constraint"):
        verify(constrained.leaf(AGENT), BundleSet.of(bundle_of("example.org", constrained)))


def test_empty_bundle_trusts_nothing() -> None:
    with pytest.raises(Unauthenticated, match="has no x509 authority"):
        verify(ROOT.leaf(AGENT), BundleSet.of(bundle_of("example.org")))


def test_leaf_placed_in_a_bundle_does_not_vouch_for_itself() -> None:
    leaf = ROOT.leaf(AGENT)
    bundles = BundleSet.of(bundle_of("example.org", Authority(leaf.certificate, leaf.key)))
    with pytest.raises(Unauthenticated, match="vouches for itself"):
        verify(leaf, bundles)


def test_old_and_new_authority_are_both_accepted_while_both_are_in_the_bundle() -> None:
    new_root = Authority.root("example.org")
    overlap = BundleSet.of(bundle_of("example.org", ROOT, new_root))
    assert verify(ROOT.leaf(AGENT), overlap).spiffe_id == verify(new_root.leaf(AGENT), overlap).spiffe_id


def test_expired_authority_no_longer_vouches() -> None:
    leaf = ROOT.leaf(AGENT, not_after=NOW + timedelta(days=5))
    assert verify(leaf).not_after == ROOT.certificate.not_valid_after_utc
    with pytest.raises(Unauthenticated, match="no path to an authority"):
        verify(leaf, after=timedelta(days=2))
