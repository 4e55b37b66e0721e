"""Health, metrics and token verification keys over HTTP: public data for probes, scrapers and tool servers.

Read-only: no request changes anything, and methods other than GET and HEAD are refused. No authentication, so nothing
here may say more than a probe, a dashboard or a verifier needs. What needs authentication is a route of its own module.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from authz_sidecar.errors import OperatorError
from authz_sidecar.telemetry.metrics import CONTENT_TYPE

_JSON = "application/json"
# RFC 7517 section 8.5.1.
_JWK_SET = "application/jwk-set+json"
# A new key is published this long before it signs, and an old one stays for as long plus a token's lifetime.
JWKS_MAX_AGE_SECONDS = 300
_MAX_CONNECTIONS = 64
_KEEP_ALIVE_SECONDS = 5
_STOP_SECONDS = 2
_START_POLL_SECONDS = 0.005


class HostPort(Protocol):
    """Where to listen: a host name or an IP address (IPv6 without brackets), and a port, 0 for a free one."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


def build_http_app(
    *,
    metrics: Callable[[], bytes],
    jwks: Callable[[], bytes],
    not_ready: Callable[[], Sequence[str]],
    broken: Callable[[], str | None] = lambda: None,
    further: Sequence[Route] = (),
) -> Starlette:
    """The application.

    Args:
        metrics: Prometheus' text format.
        jwks: the JWK Set of keys that verify tokens.
        not_ready: why no decision can be made now; empty when it can. Each reason is shown to whoever asks.
        broken: why only a restart helps; None while the process is alive.
        further: routes with authentication of their own.
    """

    def healthz() -> Response:
        reason = broken()
        if reason is not None:
            return _answer(_document(status="broken", reasons=[reason]), _JSON, status_code=503)
        return _answer(_document(status="alive"), _JSON)

    def readyz() -> Response:
        reasons = list(not_ready())
        if reasons:
            return _answer(_document(status="not ready", reasons=reasons), _JSON, status_code=503)
        return _answer(_document(status="ready"), _JSON)

    def scrape() -> Response:
        return _answer(metrics(), CONTENT_TYPE)

    def keys() -> Response:
        return _answer(jwks(), _JWK_SET, cache=f"public, max-age={JWKS_MAX_AGE_SECONDS}")

    return Starlette(
        routes=[
            _route("/healthz", healthz),
            _route("/readyz", readyz),
            _route("/metrics", scrape),
            _route("/.well-known/jwks.json", keys),
            *further,
        ]
    )


class HttpServer:
    """Serves an application from the event loop that calls `start`, and leaves the process's signals alone."""

    def __init__(self, app: Starlette, address: HostPort) -> None:
        self._address = address
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                server_header=False,
                # Refuses what exceeds it with 503, so that scrapers in a loop cannot take the loop's time.
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self.port = address.port

    async def start(self) -> None:
        """Bind and serve; `port` then holds the real port. Raises OperatorError when the address cannot be taken."""
        listening = _bind(self._address)
        self.port = listening.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise OperatorError(f"the HTTP server at {self._address} stopped before it served")
            await asyncio.sleep(_START_POLL_SECONDS)

    async def stop(self) -> None:
        """Stop accepting, let answers in progress finish for two seconds. A second call does nothing."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The composition root handles signals; uvicorn would take them over for the whole process."""
        yield


def _bind(address: HostPort) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(address, error) from None
    try:
        # A restart finds its own port in TIME_WAIT. Never SO_REUSEPORT: a second process must not share the port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(_MAX_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise _cannot_listen(address, error) from None
    listening.setblocking(False)
    return listening


def _cannot_listen(address: HostPort, error: OSError) -> OperatorError:
    reason = error.strerror or str(error)
    return OperatorError(f"`http.address`: cannot listen on {address}: {reason}; free the port or choose another")


def _route(path: str, answer: Callable[[], Response]) -> Route:
    async def endpoint(_request: Request) -> Response:
        return answer()

    handler: Callable[[Request], Awaitable[Response]] = endpoint
    # Starlette adds HEAD to GET and answers every other method with 405 and `Allow`.
    return Route(path, handler, methods=["GET"])


def _answer(content: bytes, media_type: str, *, status_code: int = 200, cache: str = "no-store") -> Response:
    headers = {"Cache-Control": cache, "X-Content-Type-Options": "nosniff", "Content-Type": media_type}
    return Response(content, status_code=status_code, headers=headers)


def _document(**members: object) -> bytes:
    return json.dumps(members).encode()
