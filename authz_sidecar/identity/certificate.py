"""X.509 certificates as untrusted input: read whole, or refused with one error."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar import verifier

_MAX_CERTIFICATES = 256
_LABEL = re.compile(rb"-----BEGIN ([^\r\n]*?)-----")
Extension = TypeVar("Extension", bound=x509.ExtensionType)


class MalformedCertificate(ValueError):
    """The bytes are not an X.509 certificate, or one with a key, name or extension that can not be read."""


def load_der(raw: bytes) -> x509.Certificate:
    """One DER certificate and nothing after it. Raises MalformedCertificate."""
    with _refusing():
        return _read_through(x509.load_der_x509_certificate(raw))


def load_pem_chain(raw: bytes) -> tuple[x509.Certificate, ...]:
    """One or more PEM certificates, in order. Text between them is allowed, blocks of any other kind are not.

    Raises MalformedCertificate: no certificate, more than 256, a private key or another block, a truncated block.
    """
    labels = _LABEL.findall(raw)
    for label in labels:
        if label != b"CERTIFICATE":
            raise MalformedCertificate(
                f"has a `{label.decode('ascii', 'replace')[:32]}` block where only certificates belong"
            )
    if not labels:
        raise MalformedCertificate("has no pem certificate")
    if len(labels) > _MAX_CERTIFICATES:
        raise MalformedCertificate(f"has {len(labels)} certificates, at most {_MAX_CERTIFICATES} are read")
    with _refusing():
        certificates = tuple(_read_through(one) for one in x509.load_pem_x509_certificates(raw))
    # A torn write leaves a block without its end, which the library passes over.
    if len(certificates) != len(labels):
        raise MalformedCertificate("has a truncated pem block")
    return certificates


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """PEM, in order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def extension(certificate: x509.Certificate, kind: type[Extension]) -> x509.Extension[Extension] | None:
    """The certificate's extension of this kind, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def uri_names(certificate: x509.Certificate) -> list[str]:
    """The URI subject alternative names, in order."""
    names = extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else list(names.value.get_values_for_type(x509.UniformResourceIdentifier))


def sha256_hex(certificate: x509.Certificate) -> str:
    """Lower-case hex SHA-256 of the DER."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def x5t_s256(certificate: x509.Certificate) -> str:
    """Thumbprint of RFC 8705 section 3.1, as the verifier of our tokens computes it."""
    return verifier.x5t_s256(certificate.public_bytes(Encoding.DER))


def _read_through(certificate: x509.Certificate) -> x509.Certificate:
    """Touch what the checks use, so that what can not be read is refused here and not halfway through a check."""
    _ = (
        certificate.extensions,
        certificate.public_key(),
        certificate.subject,
        certificate.issuer,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    return certificate


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The library documents no closed set of errors: ValueError, TypeError, UnsupportedAlgorithm and several of
        # its own come up. Whatever it raises, the certificate was not read, and that is the one answer given.
        detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise MalformedCertificate(f"not a readable certificate: {detail}") from None
