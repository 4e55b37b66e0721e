"""A directory in which the commands of one page are typed, with a sidecar where the page needs one."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import yaml

from authz_sidecar.client import AuthzError, Client, Initiator, Permitted, SvidFiles
from authz_sidecar.clock import system_now
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.spiffe_id import SpiffeId
from tests.support.pages import ROOT, Block, Command, Page, missing_line

_READY_SECONDS = 30


@dataclass(slots=True)
class Scratch:
    """Where a page is followed. `values` are what its placeholders stand for."""

    directory: Path
    port: int
    values: dict[str, str] = field(default_factory=dict)
    background: subprocess.Popen[bytes] | None = None

    @property
    def dev(self) -> Path:
        return self.directory / "dev"

    @property
    def environment(self) -> dict[str, str]:
        """The reader's, with this installation first on the path and a port of its own instead of 9180."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_SIDECAR_")}
        address = f"127.0.0.1:{self.port}"
        return {**kept, "PATH": programs, "PYTHONPATH": str(ROOT), "AUTHZ_SIDECAR_HTTP__ADDRESS": address}

    def run(self, command: str, *, code: int = 0) -> str:
        """Type a command; its output of both kinds. Fails unless it ends with `code`."""
        ended = subprocess.run(
            ["/bin/bash", "-c", self._filled(command)],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == code, f"`{command}` ended with {ended.returncode}:\n{ended.stdout}"
        return ended.stdout

    def follow(self, command: Command, *, code: int = 0) -> None:
        """Type a command and look for the lines that the page shows below it."""
        output = self.run(command.text, code=code)
        missing = missing_line([*map(self._filled, command.shown)], output)
        assert missing is None, f"`{command.text}` does not print `{missing}`, but\n{output}"

    def serve(self, command: str = "authz-sidecar serve --config dev/config.yaml") -> None:
        """Start a server and wait until it is ready. One that runs already is stopped first."""
        self.stop()
        with (self.directory / "serve.log").open("ab") as log:
            self.background = subprocess.Popen(
                ["/bin/bash", "-c", f"exec {command}"], cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._ready():
            assert self.background.poll() is None, (self.directory / "serve.log").read_text()
            assert time.monotonic() < deadline, "not ready in time"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server as a platform does, by SIGTERM."""
        if self.background is not None:
            self.background.terminate()
            assert self.background.wait(30) == 0
            self.background = None

    def write(self, block: Block, name: str, *, append: bool = False) -> None:
        with (self.directory / name).open("a" if append else "w") as file:
            file.write(f"\n{block.text}\n" if append else f"{block.text}\n")

    def start_sidecar(self, page: Page) -> None:
        """Make the world of `init`, with the parts of the configuration that the page shows, and serve it."""
        self.run("authz-sidecar init dev")
        for block in page.blocks():
            if block.directive("config") is not None:
                path = self.dev / "config.yaml"
                shown = yaml.safe_load(block.text)
                path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **shown}))
        self._issue_jwt_svid()
        self.serve()

    def make_history(self) -> None:
        """A task with a permitted call, denied ones, a permit without an outcome, and an end.

        `TASK` is its id, `TOKEN` and `JTI` are of the second permit.
        """
        with self._client() as client:
            task = client.start_task(
                "answer ticket 4711",
                initiator=Initiator("human", "alice"),
                tools=["crm/read_contact", "crm/delete_contact"],
                resources=["crm:contact/*"],
                ceiling="internal",
            )
            with task.guard("crm", "read_contact", {"contact_id": "c-1001"}) as grant:
                grant.result("found")
        # A client that was closed has reported, so the order of the records is always the same.
        with self._client() as client:
            task = client.get_task(task.id)
            for tool, arguments in (
                ("read_contact", {"contact_id": "vip-7"}),
                ("update_contact", {"contact_id": "c-1001"}),
                ("delete_contact", {"contact_id": "c-1001", "reason": "asked for"}),
            ):
                with suppress(AuthzError), task.guard("crm", tool, arguments):
                    raise AssertionError("permitted")
            permit = task.authorize("crm", "read_contact", {"contact_id": "c-1002"})
            assert isinstance(permit, Permitted)
            task.complete("answered")
        claims = permit.token.split(".")[1]
        jti = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"]
        self.values |= {"TASK": task.id, "TOKEN": permit.token, "JTI": jti}
        (self.directory / "kept.checkpoint").write_text(self.run("authz-sidecar audit checkpoint --ledger dev/ledger"))

    def _client(self) -> Client:
        svid = self.dev / "svids" / "support"
        files = SvidFiles(svid / "svid.pem", svid / "svid_key.pem", svid / "bundle.pem")
        return Client(f"unix:{self.dev}/run/authz.sock", svid=files)

    def _issue_jwt_svid(self) -> None:
        """What a SPIFFE agent would keep fresh for the agent `support`."""
        config = yaml.safe_load((self.dev / "config.yaml").read_text())
        token = DevAuthority.load(self.dev / "authority").issue_jwt_svid(
            SpiffeId.parse_workload("spiffe://example.org/agent/support"),
            audience=config["identity"]["jwt_audience"],
            ttl=timedelta(minutes=5),
            now=system_now(),
        )
        (self.dev / "svids" / "support" / "jwt_svid.token").write_text(token)

    def _filled(self, text: str) -> str:
        for name, value in self.values.items():
            text = re.sub(rf"\b{name}\b", value, text)
        return text

    def _ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A fresh directory with a short name, for the sockets in it; removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    made = Scratch(directory, port)
    try:
        yield made
    finally:
        if made.background is not None and made.background.poll() is None:
            made.background.kill()
            made.background.wait()
        shutil.rmtree(directory, ignore_errors=True)
