"""The ten lines that the README shows do what it says."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from authz_sidecar.v1 import authorization_pb2, common_pb2
from tests.support.client import FakeSidecar, TlsFixture, deny, fake_sidecar

ROOT = Path(__file__).resolve().parents[2]


class Crm(BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Zo\xc3\xab")

    def log_message(self, *_: object) -> None:
        pass


def run_example(sidecar: FakeSidecar, tls: TlsFixture) -> tuple[subprocess.CompletedProcess[str], list[object]]:
    seen: list[object] = []
    server = HTTPServer(("127.0.0.1", 0), type("Seeing", (Crm,), {"seen": seen}))
    # A token is bound to the agent's certificate, so the tool server asks for it.
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.files.bundle)
    context.verify_mode = ssl.CERT_REQUIRED
    leaf = tls.leaf("spiffe://example.org/crm", "localhost")
    (tls.directory / "crm.pem").write_bytes(leaf.chain_pem + leaf.key_pem)
    context.load_cert_chain(tls.directory / "crm.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        crm = f"localhost:{server.server_port}"
        command = [sys.executable, "-m", "examples.ten_lines", sidecar.target, str(tls.directory), crm]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=30)
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    return done, seen


def test_the_tool_is_called_with_its_token_and_reported(tmp_path: Path) -> None:
    tls = TlsFixture.create(tmp_path)
    tls.rotate()
    with fake_sidecar(tls.server_credentials()) as sidecar:
        done, seen = run_example(sidecar, tls)

    assert done.stdout == "Zoë\n", done.stderr
    assert seen == [("/contacts/42", f"Bearer token-for-{sidecar.seen[0].request.request_id}")]
    assert [outcome.status for outcome in sidecar.outcomes] == [authorization_pb2.EXECUTION_STATUS_SUCCESS]
    assert [task.state for task in sidecar.tasks.values()] == [common_pb2.TASK_STATE_COMPLETED]


def test_a_denied_tool_is_not_called(tmp_path: Path) -> None:
    tls = TlsFixture.create(tmp_path)
    tls.rotate()
    with fake_sidecar(tls.server_credentials()) as sidecar:
        sidecar.on("crm/read_contact", deny())
        done, seen = run_example(sidecar, tls)

    assert done.returncode != 0
    assert "ToolDenied: `crm/read_contact` denied: no_permit (not after hours)" in done.stderr
    assert seen == []
