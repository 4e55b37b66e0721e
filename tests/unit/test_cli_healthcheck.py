"""`healthcheck` says what the HTTP port says, for container health checks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app
from authz_sidecar.cli.healthcheck import reachable


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def healthcheck(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["healthcheck", *arguments])


def test_a_ready_sidecar_is_healthy() -> None:
    with answering(200, b"ok\n") as port:
        assert healthcheck("--url", f"http://127.0.0.1:{port}").stdout == "ready\n"
        machine = healthcheck("--url", f"http://127.0.0.1:{port}/", "-o", "json")
    assert json.loads(machine.stdout) == {"ready": True, "address": f"127.0.0.1:{port}"}


def test_a_sidecar_that_is_not_ready_is_a_failed_check_with_its_reason() -> None:
    with answering(503, b"no policy bundle is active\x1b[2J") as port:
        result = healthcheck("--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "no policy bundle is active\\x1b[2J" in result.stderr
    assert result.stderr.count("\n") == 1


def test_nobody_there_is_unreachable_and_says_what_to_do() -> None:
    with answering(200, b"") as port:
        pass
    result = healthcheck("--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 3
    assert "authz-sidecar serve" in result.stderr


def test_the_address_comes_from_the_configuration(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["init", str(tmp_path)]).exit_code == 0
    with answering(200, b"ok") as port:
        environment = {"AUTHZ_SIDECAR_CONFIG": str(tmp_path / "config.yaml")}
        environment |= {"AUTHZ_SIDECAR_HTTP__ADDRESS": f"0.0.0.0:{port}", "AUTHZ_SIDECAR_HTTP__ALLOW_REMOTE": "true"}
        assert runner.invoke(app, ["healthcheck"], env=environment).exit_code == 0


def test_a_configuration_that_is_named_and_missing_is_not_replaced_by_a_default(tmp_path: Path) -> None:
    result = healthcheck("--config", str(tmp_path / "absent.yaml"))
    assert result.exit_code == 3
    assert "absent.yaml" in result.stderr


@pytest.mark.parametrize("url", ["https://127.0.0.1", "127.0.0.1:9180", "http://", "http://host:port", "file:///etc"])
def test_a_url_that_is_not_plain_http_is_a_usage_error(url: str) -> None:
    assert healthcheck("--url", url).exit_code == 2


def test_a_listener_on_all_addresses_is_asked_on_loopback() -> None:
    assert reachable("0.0.0.0") == "127.0.0.1"  # noqa: S104 - compared, not bound
    assert reachable("::") == "::1"
    assert reachable("10.1.2.3") == "10.1.2.3"
