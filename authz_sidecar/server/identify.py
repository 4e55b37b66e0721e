"""Step 1 of the decision cycle: who is calling. TLS is not a SPIFFE validator, so everything is checked again.

A caller on a mutual-TLS listener is its X.509-SVID; a caller on a JWT-SVID listener (Unix sockets only) is the JWT-SVID
in its `authorization` metadata. A connection that has a certificate is never identified by anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import grpc

from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.jwt_svid import JwtSvidVerifier
from authz_sidecar.identity.source import FileIdentitySource
from authz_sidecar.identity.subject import Subject
from authz_sidecar.identity.x509_svid import X509SvidVerifier

Context = grpc.aio.ServicerContext[bytes, bytes]

# Returns the subject as of now, or raises Unauthenticated. Called again for every message of a stream.
IdentifyNow = Callable[[], Subject]


class Identify:
    """Identifies callers from their connection or their JWT-SVID."""

    def __init__(
        self,
        *,
        source: FileIdentitySource,
        x509: X509SvidVerifier,
        jwt: JwtSvidVerifier,
        now: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._x509 = x509
        self._jwt = jwt
        self._now = now

    def caller(self, context: Context) -> IdentifyNow:
        """Read the caller's credential once; what is returned checks it again at each call.

        Raises Unauthenticated when there is no credential at all.
        """
        connection = context.auth_context()
        if "x509_pem_cert" in connection:
            return lambda: self._x509.verify_peer(connection, bundles=self._source.current().bundles, now=self._now())
        token = _bearer(context)
        return lambda: self._jwt.verify(token, bundles=self._source.current().bundles, now=self._now())


def _bearer(context: Context) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(values) != 1:
        raise Unauthenticated("send exactly one `authorization: Bearer <JWT-SVID>`, or connect with an X.509-SVID")
    value = values[0]
    text = value.decode("ascii", errors="replace") if isinstance(value, bytes) else value
    scheme, _, token = text.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("`authorization` must be `Bearer <JWT-SVID>`")
    return token
