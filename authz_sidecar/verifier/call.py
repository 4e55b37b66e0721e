"""The call in front of the tool server, and who makes it: what a token is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import rfc8785
from cryptography import x509

from authz_sidecar.strictjson import Json, MalformedJson
from authz_sidecar.verifier import base64url


def arguments_sha256(arguments: Mapping[str, Json]) -> bytes:
    """SHA-256 over the RFC 8785 form of a tool call's arguments, 32 bytes.

    Two JSON texts of the same value have the same digest: white space, member order and the spelling of numbers do not
    count (`1.0` and `1` are one number). Strings are not Unicode-normalised.

    Raises:
        MalformedJson: an integer beyond 2^53-1, NaN or infinity, a lone surrogate, a member name that is not a string,
            a value that JSON does not have, or nesting too deep for this interpreter.
    """
    try:
        return hashlib.sha256(rfc8785.dumps(dict(arguments))).digest()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError):
        raise MalformedJson("the arguments have no RFC 8785 form") from None


def x5t_s256(certificate_der: bytes) -> str:
    """RFC 8705 section 3.1 thumbprint of a certificate: SHA-256 over its DER, base64url without padding."""
    return base64url.encode(hashlib.sha256(certificate_der).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Presenter:
    """What the tool server established about whoever presented the token, by its own means and for this request.

    Take these from the TLS connection or from a proof of possession that you verified, never from the token and never
    from a header that a client could have set. With everything None every token is refused.

    Attributes:
        x5t_s256: `x5t_s256()` of the certificate with which the peer authenticated by mutual TLS.
        jkt: RFC 7638 thumbprint of a key whose possession the peer proved, for example by DPoP. This package does not
            verify such proofs.
        spiffe_id: the peer's SPIFFE ID. None skips the comparison with `client_id`; the token then still is bound to
            the certificate or key.

    Raises ValueError when a thumbprint is not 43 characters of base64url, for example because it is hex.
    """

    x5t_s256: str | None = None
    jkt: str | None = None
    spiffe_id: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("x5t_s256", self.x5t_s256), ("jkt", self.jkt)):
            if value is not None and not base64url.is_sha256(value):
                raise ValueError(f"`{name}`: expected a SHA-256 as 43 characters of base64url, not hex and not padded")

    @classmethod
    def from_certificate(cls, certificate_der: bytes) -> Presenter:
        """The presenter behind a mutual TLS connection, from the leaf certificate that TLS verified.

        `spiffe_id` is the certificate's URI SAN. The certificate itself is NOT verified here: chain, validity and trust
        domain are the TLS layer's work. Raises ValueError when it does not parse or has more or less than one URI SAN.
        """
        certificate = x509.load_der_x509_certificate(certificate_der)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise ValueError(f"certificate: {error}") from None
        if len(uris) != 1:
            raise ValueError(f"certificate: expected exactly one URI subject alternative name, got {len(uris)}")
        return cls(x5t_s256=x5t_s256(certificate_der), spiffe_id=uris[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The call that is about to run.

    Attributes:
        tool: "server/name" as in the catalog.
        arguments_sha256: see `arguments_sha256()`, lower-case hex.
        resource: what the call touches; None leaves the resource to the arguments' digest.
    """

    tool: str
    arguments_sha256: str
    resource: str | None
