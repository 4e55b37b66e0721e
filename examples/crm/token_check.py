"""The one thing a tool server adds: no tool body runs without a token for exactly this call.

Copy this file. It needs `authz_sidecar.verifier` and the certificate of the TLS peer (`peer_certificate.py`). By
default it asks nobody: the token carries the decision, and the sidecar's public keys prove it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio.to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolResult, TextContent
from starlette.requests import Request

from authz_sidecar.verifier import Presenter, TokenRejected, TokenVerifier
from examples.crm.peer_certificate import client_certificate

Arguments = Mapping[str, Any]
log = logging.getLogger("crm.token_check")


class TokenCheck:
    """MCP server middleware. It sees every message; only `tools/call` needs a token.

    Args:
        server: this server's name in the sidecar's tool catalog.
        verifier: checks the token offline, or also asks the sidecar when it was made with introspection.
        resource_of: the resource that a call touches, as this server sees it; the token must be for the same one.
            None for a tool that this server does not have.
    """

    def __init__(
        self, *, server: str, verifier: TokenVerifier, resource_of: Callable[[str, Arguments], str | None]
    ) -> None:
        self._server = server
        self._verifier = verifier
        self._resource_of = resource_of

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call":
            try:
                # In a thread: reading keys or introspecting may wait for a disk or the network.
                await anyio.to_thread.run_sync(self._verify, ctx)
            except TokenRejected as rejected:
                log.warning("refused: %s", rejected)
                # The reason is all the caller gets; the message is for this server's log.
                text = TextContent(type="text", text=f"refused: {rejected.reason.value}")
                return CallToolResult(content=[text], is_error=True)
        # Any other exception above leaves this method too, and then the tool's body does not run either.
        return await call_next(ctx)

    def _verify(self, ctx: ServerRequestContext[Any, Any]) -> None:
        request: Request | None = ctx.request
        if request is None:
            raise RuntimeError("tokens travel in HTTP headers; serve this over streamable HTTP only")
        params = ctx.params or {}
        tool, arguments = str(params.get("name")), dict(params.get("arguments") or {})
        certificate = client_certificate(request.scope)
        self._verifier.verify(
            bearer_token(request.headers.get("authorization", "")),
            # Without a certificate the presenter proved nothing, and no bound token is accepted.
            presenter=Presenter.from_certificate(certificate) if certificate else Presenter(),
            tool=f"{self._server}/{tool}",
            arguments=arguments,
            resource=self._resource_of(tool, arguments),
        )


def bearer_token(header: str) -> str:
    """The token of an `Authorization` header (RFC 6750 section 2.1); empty, which no verifier accepts, without one."""
    scheme, _, token = header.partition(" ")
    return token if scheme.lower() == "bearer" else ""
