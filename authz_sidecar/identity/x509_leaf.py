"""What makes a certificate an X.509-SVID of a workload, beyond being signed by the right authority.

Source: X509-SVID sections 2, 3.1, 4 and 5.2. Path validation and time are not checked here.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz_sidecar.identity.certificate import extension, uri_names
from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, SpiffeId, TrustDomain


class NotAnSvid(ValueError):
    """The certificate does not have the shape that the standard demands. The message names the check."""


def workload_id(leaf: x509.Certificate) -> SpiffeId:
    """The workload named by a leaf that passes every shape check. Raises NotAnSvid."""
    spiffe_id = _only_uri(leaf)
    _check_basic_constraints(leaf)
    _check_key_usage(leaf)
    _check_extended_key_usage(leaf)
    return spiffe_id


def check_issuer(issuer: x509.Certificate, trust_domain: TrustDomain) -> None:
    """Refuse an issuer that names itself as another trust domain's, or as a workload (section 3.2).

    The domain is a SHOULD in the standard. It matters where two domains share a root: there, an intermediate of one
    would otherwise pass for the other.
    """
    for uri in uri_names(issuer):
        if not uri.startswith("spiffe:"):
            continue
        try:
            issuer_id = SpiffeId.parse(uri)
        except MalformedSpiffeId as error:
            raise NotAnSvid(f"the issuer's uri san {error}") from None
        if issuer_id.path:
            raise NotAnSvid("the issuer has the SPIFFE ID of a workload, expected one without a path")
        if issuer_id.trust_domain != trust_domain:
            raise NotAnSvid(f"the issuer belongs to trust domain `{issuer_id.trust_domain}`, not `{trust_domain}`")


def _only_uri(leaf: x509.Certificate) -> SpiffeId:
    """Section 2: exactly one URI SAN; section 5.2: scheme `spiffe` and a non-root path."""
    uris = uri_names(leaf)
    if len(uris) != 1:
        raise NotAnSvid(f"expected exactly one uri san, got {len(uris)}")
    try:
        return SpiffeId.parse_workload(uris[0])
    except MalformedSpiffeId as error:
        raise NotAnSvid(f"the uri san is not the SPIFFE ID of a workload: {error}") from None


def _check_basic_constraints(leaf: x509.Certificate) -> None:
    """Section 4.1: leaf certificates set `cA` to false."""
    constraints = extension(leaf, x509.BasicConstraints)
    if constraints is None:
        raise NotAnSvid("no basic constraints, expected CA:FALSE")
    if constraints.value.ca:
        raise NotAnSvid("basic constraints say CA:TRUE, expected CA:FALSE")


def _check_key_usage(leaf: x509.Certificate) -> None:
    """Section 4.3."""
    usage = extension(leaf, x509.KeyUsage)
    if usage is None:
        raise NotAnSvid("no key usage, expected a critical one with digitalSignature")
    if not usage.critical:
        raise NotAnSvid("key usage is not marked critical")
    if not usage.value.digital_signature:
        raise NotAnSvid("key usage lacks digitalSignature")
    if usage.value.key_cert_sign:
        raise NotAnSvid("key usage has keyCertSign, which only a signing certificate may have")
    if usage.value.crl_sign:
        raise NotAnSvid("key usage has cRLSign, which only a signing certificate may have")


def _check_extended_key_usage(leaf: x509.Certificate) -> None:
    """Section 4.4: optional, but when included both purposes are set."""
    purposes = extension(leaf, x509.ExtendedKeyUsage)
    if purposes is None:
        return
    for oid, name in ((ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"), (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth")):
        if oid not in purposes.value:
            raise NotAnSvid(f"extended key usage lacks {name}")
