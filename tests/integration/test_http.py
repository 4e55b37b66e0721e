from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from authz_sidecar.errors import OperatorError
from authz_sidecar.server.http import HttpServer, build_http_app


@dataclass(frozen=True)
class Address:
    host: str = "127.0.0.1"
    port: int = 0


@dataclass
class Sidecar:
    """What the endpoints report; tests change it while the server runs."""

    reasons: list[str] = field(default_factory=list)
    broken: str | None = None


@asynccontextmanager
async def serving(sidecar: Sidecar, address: Address | None = None) -> AsyncIterator[HttpServer]:
    app = build_http_app(
        metrics=lambda: b"up 1\n",
        jwks=lambda: b'{"keys":[]}',
        not_ready=lambda: sidecar.reasons,
        broken=lambda: sidecar.broken,
    )
    server = HttpServer(app, address or Address())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def ask(server: HttpServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    def exchange() -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(exchange)


async def test_readiness_follows_the_sidecar_and_says_why_not() -> None:
    sidecar = Sidecar(reasons=["no policy bundle is active"])
    async with serving(sidecar) as server:
        status, _, body = await ask(server, "/readyz")
        assert (status, json.loads(body)) == (503, {"status": "not ready", "reasons": ["no policy bundle is active"]})
        sidecar.reasons.clear()
        status, headers, body = await ask(server, "/readyz")
        assert (status, json.loads(body)) == (200, {"status": "ready"})
        assert headers["cache-control"] == "no-store"


async def test_liveness_fails_only_for_what_a_restart_mends() -> None:
    sidecar = Sidecar(reasons=["no policy bundle is active"])
    async with serving(sidecar) as server:
        assert (await ask(server, "/healthz"))[0] == 200
        sidecar.broken = "the ledger cannot be written"
        status, _, body = await ask(server, "/healthz")
        assert (status, json.loads(body)["reasons"]) == (503, ["the ledger cannot be written"])


async def test_keys_may_be_cached_and_metrics_may_not() -> None:
    async with serving(Sidecar()) as server:
        status, headers, body = await ask(server, "/.well-known/jwks.json")
        assert (status, body) == (200, b'{"keys":[]}')
        assert headers["content-type"] == "application/jwk-set+json"
        assert headers["cache-control"] == "public, max-age=300"
        status, headers, body = await ask(server, "/metrics")
        assert (status, body) == (200, b"up 1\n")
        assert headers["content-type"].startswith("text/plain")
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/.well-known/jwks.json"])
async def test_only_reading_is_possible(path: str) -> None:
    async with serving(Sidecar()) as server:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
            status, headers, _ = await ask(server, path, method)
            assert (method, status) == (method, 405)
            assert {name.strip() for name in headers["allow"].split(",")} == {"GET", "HEAD"}


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with serving(Sidecar()) as server:
        status, headers, body = await ask(server, "/metrics", "HEAD")
        assert (status, body, headers["content-length"]) == (200, b"", "5")


async def test_unknown_paths_are_not_found() -> None:
    async with serving(Sidecar()) as server:
        assert (await ask(server, "/"))[0] == 404
        assert (await ask(server, "/docs"))[0] == 404


async def test_a_taken_port_is_an_operators_error_with_its_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=r"`http\.address`: cannot listen on .*: .*in use; free the port"):
            async with serving(Sidecar(), Address(port=port)):
                pass


async def test_the_processs_signal_handlers_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving(Sidecar()):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_after_a_stop_the_port_is_free_and_a_second_stop_is_harmless() -> None:
    async with serving(Sidecar()) as server:
        port = server.port
    await server.stop()
    async with serving(Sidecar(), Address(port=port)) as again:
        assert again.port == port
        assert (await ask(again, "/healthz"))[0] == 200


async def test_an_idle_connection_does_not_delay_the_stop() -> None:
    async with serving(Sidecar()) as server:
        _, idle = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(5):
            await server.stop()
        idle.close()
