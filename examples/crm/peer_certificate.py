"""uvicorn with the client's certificate in the ASGI scope.

uvicorn can demand client certificates (`ssl_cert_reqs=CERT_REQUIRED`) but does not tell the application which one was
presented. A token that is bound to a certificate (RFC 8705) cannot be checked without it, so this protocol class adds
it under the name and in the shape of the ASGI TLS extension: `scope["extensions"]["tls"]["client_cert_chain"]`, PEM,
leaf first (asgi.readthedocs.io, "TLS Extension"). Only the leaf is given: Python 3.11 offers no way to read the rest.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]


class PeerCertificateProtocol(H11Protocol):
    """One TLS connection. Pass the class as `uvicorn.Config(http=PeerCertificateProtocol)`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # asyncio calls this once per connection and after the handshake, so the certificate is final here.
        super().connection_made(transport)
        chain = _certificate_chain(transport)
        application = self.app

        async def with_certificate(scope: Scope, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})["tls"] = {"client_cert_chain": chain}
            await application(scope, receive, send)

        self.app = with_certificate


def client_certificate(scope: Scope) -> bytes | None:
    """DER of the certificate whose key the peer of this request holds; None when there was no mutual TLS."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain")
    return ssl.PEM_cert_to_DER_cert(chain[0]) if chain else None


def _certificate_chain(transport: asyncio.Transport) -> list[str]:
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    leaf = connection.getpeercert(binary_form=True) if connection is not None else None
    return [ssl.DER_cert_to_PEM_cert(leaf)] if leaf else []
