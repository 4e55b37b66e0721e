"""Certificate authorities, SVIDs and JWT-SVIDs for tests, including every wrong shape the verifiers must refuse."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import get_default_algorithms

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
EMPTY_SUBJECT = x509.Name([])
SPIRE_SUBJECT = x509.Name(
    [x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE")]
)
BOTH_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_usage(*names: str) -> x509.KeyUsage:
    flags = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    assert set(names) <= set(flags)
    return x509.KeyUsage(**{flag: flag in names for flag in flags})


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)

    @property
    def intermediates_pem(self) -> bytes:
        return b"".join(map(pem, self.intermediates))

    @property
    def chain_pem(self) -> bytes:
        return self.pem + self.intermediates_pem

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


@dataclass(frozen=True)
class Authority:
    """A CA that issues what it is told to, right or wrong. `above` are the intermediates its leaves have to send."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @classmethod
    def root(
        cls, trust_domain: str = "example.org", key: ec.EllipticCurvePrivateKey | None = None, **changes: Any
    ) -> Authority:
        key = key or ec_key()
        return cls(_ca_certificate(trust_domain, key, issuer=None, **changes), key)

    def intermediate(self, trust_domain: str = "example.org", **changes: Any) -> Authority:
        key = ec_key()
        certificate = _ca_certificate(trust_domain, key, issuer=self, **changes)
        return Authority(certificate, key, (certificate, *self.above))

    def leaf(
        self,
        *uris: str,
        dns: Sequence[str] = (),
        subject: x509.Name = SPIRE_SUBJECT,
        san_critical: bool | None = None,
        basic_constraints: x509.BasicConstraints | None = x509.BasicConstraints(ca=False, path_length=None),  # noqa: B008
        usage: x509.KeyUsage | None = key_usage("digital_signature"),  # noqa: B008
        usage_critical: bool = True,
        purposes: Sequence[x509.ObjectIdentifier] | None = BOTH_PURPOSES,
        not_before: datetime = NOW - timedelta(minutes=1),
        not_after: datetime = NOW + timedelta(hours=1),
    ) -> Leaf:
        key = ec_key()
        builder = _builder(subject, self.certificate.subject, key, not_before, not_after)
        if basic_constraints is not None:
            builder = builder.add_extension(basic_constraints, critical=True)
        if usage is not None:
            builder = builder.add_extension(usage, critical=usage_critical)
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        if names:
            critical = not subject.rdns if san_critical is None else san_critical
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        return Leaf(builder.sign(self.key, hashes.SHA256()), key, self.above)


def _ca_certificate(
    trust_domain: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: Authority | None,
    not_before: datetime = NOW - timedelta(days=1),
    not_after: datetime = NOW + timedelta(days=1),
    uri: str | None = None,
    name: str | None = None,
    path_length: int | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    # The key makes the name unique, so that a wrong issuer is a wrong name and not only a wrong signature.
    unique = format(key.public_key().public_numbers().x, "x")[:8]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or f"{trust_domain} {unique}")])
    builder = _builder(subject, issuer.certificate.subject if issuer else subject, key, not_before, not_after)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri or f"spiffe://{trust_domain}")]),
            critical=False,
        )
    )
    signing_key = issuer.key if issuer else key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
    )
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signing_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def uint(value: int, length: int | None = None) -> str:
    return b64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def public_jwk(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> dict[str, str]:
    """The public members of RFC 7518 section 6, written independently of the code under test."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "n": uint(numbers.n), "e": uint(numbers.e)}
    curve = {256: "P-256", 384: "P-384", 521: "P-521"}[key.curve.key_size]
    size = (key.curve.key_size + 7) // 8
    point = key.public_key().public_numbers()
    return {"kty": "EC", "crv": curve, "x": uint(point.x, size), "y": uint(point.y, size)}


def x509_jwk(authority: Authority) -> dict[str, Any]:
    der = authority.certificate.public_bytes(serialization.Encoding.DER)
    return {**public_jwk(authority.key), "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]}


@dataclass(frozen=True)
class JwtSigner:
    """A JWT authority that signs whatever header and payload it is given."""

    kid: str = "key-1"
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(default_factory=ec_key)
    alg: str = "ES256"

    def jwk(self, **changes: Any) -> dict[str, Any]:
        return {**public_jwk(self.key), "kid": self.kid, "use": "jwt-svid", **changes}

    def header(self, **changes: Any) -> dict[str, Any]:
        return _without_none({"alg": self.alg, "kid": self.kid, "typ": "JWT", **changes})

    def token(self, claims: Mapping[str, Any] | bytes, header: Mapping[str, Any] | bytes | None = None) -> str:
        signing_input = f"{_segment(header if header is not None else self.header())}.{_segment(claims)}"
        signature = get_default_algorithms()[self.alg].sign(signing_input.encode(), self.key)
        return f"{signing_input}.{b64url(signature)}"


def svid_claims(**changes: Any) -> dict[str, Any]:
    """Claims of a valid JWT-SVID for the audience `authz-sidecar`; None removes a claim."""
    issued = int(NOW.timestamp())
    return _without_none(
        {
            "sub": "spiffe://example.org/agent",
            "aud": ["authz-sidecar"],
            "iat": issued,
            "exp": issued + 300,
            **changes,
        }
    )


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def _segment(content: Mapping[str, Any] | bytes) -> str:
    return b64url(content if isinstance(content, bytes) else json.dumps(content).encode())


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
