"""The strict mode: ask the sidecar whether a token is still active before acting on it (RFC 7662 in gRPC).

Offline verification cannot see that a task ended a second ago; the token's lifetime bounds that. A tool server that
cannot live with the bound asks. The price is a round trip, and no sidecar means no call.
"""

from __future__ import annotations

from pathlib import Path

import grpc

from authz_sidecar.v1.token_pb2 import IntrospectTokenRequest
from authz_sidecar.v1.token_pb2_grpc import TokenServiceStub


class Introspection:
    """Pass an instance as `TokenVerifier(introspect=...)`. Keeps one connection; safe to call from several threads."""

    def __init__(
        self, target: str, *, certificate: Path, key: Path, trust_bundle: Path, server_name: str, timeout: float = 2.0
    ) -> None:
        """
        Args:
            target: the sidecar's address in gRPC syntax, `unix:/path` or `host:port`.
            certificate, key: this server's own X.509-SVID; the sidecar must know it as a resource server.
            trust_bundle: authorities of the trust domain, PEM.
            server_name: the DNS name that the sidecar's certificate must hold.
            timeout: seconds to wait for an answer.
        """
        credentials = grpc.ssl_channel_credentials(
            root_certificates=trust_bundle.read_bytes(),
            private_key=key.read_bytes(),
            certificate_chain=certificate.read_bytes(),
        )
        options = [("grpc.ssl_target_name_override", server_name)]
        self._service = TokenServiceStub(grpc.secure_channel(target, credentials, options))
        self._timeout = timeout

    def __call__(self, token: str) -> bool:
        """Whether the token is active. Raises grpc.RpcError without an answer, which the verifier takes for a no."""
        answer = self._service.IntrospectToken(IntrospectTokenRequest(token=token), timeout=self._timeout)
        return answer.active is True
