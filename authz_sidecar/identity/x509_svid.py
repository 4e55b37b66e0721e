"""X.509-SVIDs: our own as read from files, and a peer's as re-validated on every call.

The TLS layer of gRPC checks the chain against a merged pool, once per connection. It lets two URI SANs, `https` URIs
and CA leaves through, lets a federated authority speak for any trust domain, and never notices that a certificate
expired. `X509SvidVerifier` repeats the whole list for each RPC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from authz_sidecar.clock import format_time
from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.bundle import BundleSet, TrustBundle
from authz_sidecar.identity.certificate import MalformedCertificate, load_pem_chain, sha256_hex, x5t_s256
from authz_sidecar.identity.lru import RecentlyUsed
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.identity.x509_leaf import NotAnSvid, check_issuer, workload_id

_MAX_CHAIN_BYTES = 1 << 16
_MAX_INTERMEDIATES = 8


class MalformedSvid(ValueError):
    """The certificate chain and key are not an X.509-SVID. Never quotes the key."""


class _Refused(ValueError):
    """The peer's certificate is an SVID, but not one to accept here and now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """The identity this process presents.

    Attributes:
        spiffe_id: the workload.
        chain_pem: leaf first, then intermediates.
        key_pem: PKCS#8 or SEC 1, unencrypted; kept out of `repr`.
        leaf: the parsed leaf.
        not_after: end of the leaf's life. Not compared with any clock here.
        x5t_s256: RFC 8705 thumbprint of the leaf.
    """

    spiffe_id: SpiffeId
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    leaf: x509.Certificate
    not_after: datetime
    x5t_s256: str


def parse_x509_svid(cert_chain_pem: bytes, key_pem: bytes) -> X509Svid:
    """Read an X.509-SVID with its private key.

    Not checked: time, and whether any trust bundle vouches for it; the peers check both.

    Raises:
        MalformedSvid: not certificates, not the shape of a workload's SVID, the chain out of order, not an
            unencrypted private key, or the key of another certificate.
    """
    try:
        chain = load_pem_chain(cert_chain_pem)
        spiffe_id = workload_id(chain[0])
    except (MalformedCertificate, NotAnSvid) as error:
        raise MalformedSvid(f"certificate: {error}") from None
    for position, (issued, issuer) in enumerate(pairwise(chain)):
        if issued.issuer != issuer.subject:
            raise MalformedSvid(f"certificate {position} was not issued by the one after it; put the leaf first")
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MalformedSvid("private key: expected one unencrypted pem private key") from None
    der = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*der) != chain[0].public_key().public_bytes(*der):
        raise MalformedSvid("private key: belongs to another certificate")
    return X509Svid(
        spiffe_id=spiffe_id,
        chain_pem=cert_chain_pem,
        key_pem=key_pem,
        leaf=chain[0],
        not_after=chain[0].not_valid_after_utc,
        x5t_s256=x5t_s256(chain[0]),
    )


@dataclass(frozen=True, slots=True)
class _Established:
    """What does not change while the bundles do not: who it is, and between which times every certificate is valid."""

    subject: Subject
    not_before: datetime
    not_after: datetime


class X509SvidVerifier:
    """Establishes the workload behind a TLS peer certificate. For use by one thread.

    Steps, in order; 1 to 4 are remembered for the `max_cached` chains used last, keyed by every byte of the chain
    and the version of the bundles; 5 is never remembered:

    1. leaf and intermediates parse;
    2. the leaf has the shape of a workload's SVID, and the ID is the one the TLS layer saw (`verify_peer`);
    3. the trust domain of that ID has a bundle; no other bundle is looked at;
    4. RFC 5280 path validation up to an authority of that bundle;
    5. every certificate of the path is valid now.

    Not checked: revocation lists (SPIFFE has none); URI name constraints, which the path validator does not know, so
    that a chain with one is refused; and the spelling of the signature, which its holder can vary. So the digest and
    the thumbprint of a `Subject` say which bytes were presented, and are no key to recognise a certificate again.
    """

    def __init__(self, *, max_cached: int = 1024) -> None:
        self._established: RecentlyUsed[_Established] = RecentlyUsed(max_cached)

    def verify_peer(self, auth_context: Mapping[str, Iterable[bytes]], *, bundles: BundleSet, now: datetime) -> Subject:
        """Like `verify`, from what gRPC's `auth_context()` says about the connection.

        Raises Unauthenticated, also when there is no client certificate or the TLS layer read another SPIFFE ID.
        """
        leaf_pem = _single(auth_context, "x509_pem_cert")
        if leaf_pem is None:
            raise Unauthenticated("no client certificate on this connection; connect with an x509-svid over mTLS")
        intermediates_pem = _single(auth_context, "x509_pem_cert_chain") or b""
        subject = self.verify(leaf_pem=leaf_pem, intermediates_pem=intermediates_pem, bundles=bundles, now=now)
        if _single(auth_context, "peer_spiffe_id") != str(subject.spiffe_id).encode("ascii"):
            raise Unauthenticated("x509-svid: the tls layer read another SPIFFE ID from this certificate")
        return subject

    def verify(self, *, leaf_pem: bytes, intermediates_pem: bytes, bundles: BundleSet, now: datetime) -> Subject:
        """Check one peer certificate against the bundle of its own trust domain.

        Args:
            leaf_pem: exactly one certificate.
            intermediates_pem: any number of certificates up to 8, empty for none; together at most 64 KiB.
            bundles: the current trust bundles.
            now: aware UTC.

        Raises:
            Unauthenticated: the message names the check that failed.
        """
        digest = hashlib.sha256(b"%d:%b%b" % (len(leaf_pem), leaf_pem, intermediates_pem))
        digest.update(bundles.version.encode("ascii"))
        key = digest.digest()
        known = self._established.get(key)
        if known is not None and known.not_before <= now < known.not_after:
            return known.subject
        # Not known, or outside its times: there may be another path, so start over rather than refuse at once.
        self._established.forget(key)
        try:
            established = _establish(leaf_pem, intermediates_pem, bundles, now)
        except (MalformedCertificate, NotAnSvid, _Refused) as error:
            raise Unauthenticated(f"x509-svid: {error}") from None
        self._established.put(key, established)
        return established.subject


def _establish(leaf_pem: bytes, intermediates_pem: bytes, bundles: BundleSet, now: datetime) -> _Established:
    # 1. parse
    leaf, intermediates = _parse_chain(leaf_pem, intermediates_pem)
    # 2. shape
    spiffe_id = workload_id(leaf)
    # 3. the one bundle that may speak for this trust domain
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None:
        raise _Refused(f"no trust bundle for trust domain `{spiffe_id.trust_domain}`")
    if not bundle.x509_authorities:
        raise _Refused(f"the bundle of trust domain `{spiffe_id.trust_domain}` has no x509 authority")
    # 5. before 4., so that an expired leaf is reported as such
    _check_validity(leaf, now)
    # 4. path
    path = _build_path(leaf, intermediates, bundle, now)
    not_after = min(certificate.not_valid_after_utc for certificate in path)
    subject = Subject(
        spiffe_id=spiffe_id,
        method="x509-svid",
        credential_sha256=sha256_hex(leaf),
        not_after=not_after,
        x5t_s256=x5t_s256(leaf),
        p256_key=_p256(leaf),
    )
    not_before = max(certificate.not_valid_before_utc for certificate in path)
    if not now < not_after:
        raise _Refused(f"a certificate of the path expired at {format_time(not_after)}")
    return _Established(subject, not_before, not_after)


def _p256(leaf: x509.Certificate) -> ec.EllipticCurvePublicKey | None:
    key = leaf.public_key()
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None


def _parse_chain(leaf_pem: bytes, intermediates_pem: bytes) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    if len(leaf_pem) + len(intermediates_pem) > _MAX_CHAIN_BYTES:
        raise MalformedCertificate(f"chain longer than {_MAX_CHAIN_BYTES} bytes")
    leaf = load_pem_chain(leaf_pem)
    if len(leaf) != 1:
        raise MalformedCertificate(f"expected one leaf certificate, got {len(leaf)}")
    intermediates = load_pem_chain(intermediates_pem) if intermediates_pem else ()
    if len(intermediates) > _MAX_INTERMEDIATES:
        raise MalformedCertificate(f"more than {_MAX_INTERMEDIATES} intermediates")
    return leaf[0], intermediates


def _check_validity(leaf: x509.Certificate, now: datetime) -> None:
    if now < leaf.not_valid_before_utc:
        raise _Refused(f"not valid before {format_time(leaf.not_valid_before_utc)}")
    if not now < leaf.not_valid_after_utc:
        raise _Refused(f"expired at {format_time(leaf.not_valid_after_utc)}")


def _build_path(
    leaf: x509.Certificate, intermediates: tuple[x509.Certificate, ...], bundle: TrustBundle, now: datetime
) -> list[x509.Certificate]:
    """RFC 5280 path validation, against the authorities of one trust domain only."""
    verifier = PolicyBuilder().store(Store(list(bundle.x509_authorities))).time(now).build_client_verifier()
    try:
        path = verifier.verify(leaf, list(intermediates)).chain
    except (VerificationError, ValueError) as error:
        reason = str(error).partition(" (encountered")[0]
        raise _Refused(f"no path to an authority of trust domain `{bundle.trust_domain}`: {reason}") from None
    if len(path) < 2:
        raise _Refused("the leaf vouches for itself; a bundle holds authorities, never leaves")
    check_issuer(path[1], bundle.trust_domain)
    return path


def _single(auth_context: Mapping[str, Iterable[bytes]], name: str) -> bytes | None:
    """The value of a property, or None when it is absent. Two values are as good as a forgery."""
    values = tuple(auth_context.get(name, ()))
    if len(values) > 1:
        raise Unauthenticated(f"x509-svid: the tls layer reports {len(values)} values of `{name}`, expected one")
    return values[0] if values else None
