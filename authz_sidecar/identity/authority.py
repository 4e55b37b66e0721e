"""A trust domain in a directory, FOR DEVELOPMENT ONLY: who can read the directory can be anybody.

It stands in for SPIRE on a developer's machine and in tests, and issues what SPIRE issues: short-lived P-256 SVIDs
with a critical key usage, CA:FALSE, both TLS purposes and one URI SAN. It attests nothing: it names whoever it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authz_sidecar.errors import OperatorError
from authz_sidecar.files import create_exclusive
from authz_sidecar.identity.bundle import TrustBundle, bundle_to_json
from authz_sidecar.identity.certificate import load_pem_chain, to_pem, uri_names
from authz_sidecar.identity.jwk import JwtKey, thumbprint
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain

CA_TTL = timedelta(days=365)
_BACKDATED = timedelta(seconds=10)  # SPIRE's cushion for clocks that run behind
_CA_CERT, _CA_KEY, _JWT_KEY = "ca.pem", "ca-key.pem", "jwt-key.pem"


class DevAuthority:
    """One X.509 CA and one JWT signing key for one trust domain."""

    def __init__(
        self, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, jwt_key: ec.EllipticCurvePrivateKey
    ) -> None:
        """Use `create` or `load`. Raises ValueError when `ca` has no trust domain or another key."""
        names = uri_names(ca)
        if len(names) != 1:
            raise ValueError(f"expected a CA certificate with one uri san, got {len(names)}")
        if ca.public_key() != ca_key.public_key():
            raise ValueError("the CA key belongs to another certificate")
        self.trust_domain = SpiffeId.parse(names[0]).trust_domain
        self._ca = ca
        self._ca_key = ca_key
        self._jwt_key = jwt_key
        self._kid = thumbprint(jwt_key.public_key())

    @classmethod
    def create(cls, trust_domain: TrustDomain, now: datetime) -> DevAuthority:
        """New keys, and a CA certificate that is valid for 365 days."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "authz-sidecar development"),
                x509.NameAttribute(NameOID.COMMON_NAME, trust_domain.name[:64]),
            ]
        )
        ca = (
            _certificate(name, name, key.public_key(), now, now + CA_TTL)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_uri_san(f"spiffe://{trust_domain}"), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(ca, key, ec.generate_private_key(ec.SECP256R1()))

    def save(self, directory: Path) -> None:
        """Write the CA certificate and both keys (0600) into an existing directory.

        Raises OperatorError when one of the files exists: an authority is never overwritten.
        """
        for name, content in (
            (_CA_KEY, _private_pem(self._ca_key)),
            (_JWT_KEY, _private_pem(self._jwt_key)),
            (_CA_CERT, to_pem([self._ca])),
        ):
            try:
                create_exclusive(directory / name, content)
            except FileExistsError:
                raise OperatorError(
                    f"`{directory / name}` exists; load that authority, or remove its three files"
                ) from None

    @classmethod
    def load(cls, directory: Path) -> DevAuthority:
        """Read what `save` wrote. Raises OperatorError naming the file."""
        try:
            ca = load_pem_chain(_read(directory / _CA_CERT))[0]
            return cls(ca, _private_key(directory / _CA_KEY), _private_key(directory / _JWT_KEY))
        except (ValueError, TypeError) as error:
            raise OperatorError(f"`{directory}` is not a development authority: {error}") from None

    def issue_x509_svid(
        self, spiffe_id: SpiffeId, *, dns_names: Sequence[str] = (), ttl: timedelta, now: datetime
    ) -> tuple[bytes, bytes]:
        """A new key and its SVID: (chain PEM, PKCS#8 key PEM). Ends with the CA at the latest.

        A server that gRPC clients reach needs one of the `dns_names`: they do not match on URI SANs.
        Raises ValueError for an ID outside the trust domain or without a path.
        """
        self._check_subject(spiffe_id)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "authz-sidecar development")])
        not_after = min(now + ttl, self._ca.not_valid_after_utc)
        issuer_key = self._ca_key.public_key()
        leaf = (
            _certificate(subject, self._ca.subject, key.public_key(), now, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
            .add_extension(_uri_san(str(spiffe_id), dns_names), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )
        return to_pem([leaf]), _private_pem(key)

    def issue_jwt_svid(self, spiffe_id: SpiffeId, *, audience: str, ttl: timedelta, now: datetime) -> str:
        """A JWT-SVID for one audience, ES256. Raises ValueError as `issue_x509_svid` does."""
        self._check_subject(spiffe_id)
        claims = {
            "sub": str(spiffe_id),
            "aud": [audience],
            "iat": int(now.timestamp()),
            "exp": int((now + ttl).timestamp()),
        }
        return jwt.encode(claims, self._jwt_key, algorithm="ES256", headers={"kid": self._kid})

    def bundle_json(self) -> bytes:
        """The trust bundle, in the SPIFFE bundle format."""
        key = JwtKey(kid=self._kid, public_key=self._jwt_key.public_key(), algorithms=frozenset({"ES256"}))
        bundle = TrustBundle(
            trust_domain=self.trust_domain,
            x509_authorities=(self._ca,),
            jwt_keys=MappingProxyType({key.kid: key}),
            version="",
        )
        return bundle_to_json(bundle, sequence=1, refresh_hint=timedelta(minutes=5))

    def ca_pem(self) -> bytes:
        """The CA certificate, for clients that take PEM roots."""
        return to_pem([self._ca])

    def _check_subject(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            raise ValueError(f"expected a SPIFFE ID with a path in `{self.trust_domain}`, got `{spiffe_id}`")


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(not_after)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _uri_san(uri: str, dns_names: Sequence[str] = ()) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(uri), *(x509.DNSName(name) for name in dns_names)]
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(_read(path), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError(f"`{path.name}` is not a P-256 key")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(f"can not read `{path}`: {error.strerror}; create the authority first") from None
