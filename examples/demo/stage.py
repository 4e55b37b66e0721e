"""What the demonstration runs on: the sidecar, and the CRM in its two modes, as processes of one trust domain."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authz_sidecar.client import SvidFiles
from examples.crm.contacts import Contacts
from examples.demo.processes import Child, Children, accepts_connections, answers_ok, free_port

# What the configuration made by `init` and the shipped catalog say.
ISSUER, AUDIENCE = "https://authz.example.org", "https://crm.example.org"
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and what it printed, on standard output and on standard error."""

    exit_code: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        """The output as JSON."""
        return json.loads(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything that runs. `crm` verifies tokens offline; `strict_crm` also asks the sidecar about each one."""

    directory: Path
    sidecar: Child
    crm_port: int
    strict_crm_port: int
    contacts: Contacts

    @property
    def crm(self) -> str:
        return f"https://127.0.0.1:{self.crm_port}/mcp"

    @property
    def strict_crm(self) -> str:
        return f"https://127.0.0.1:{self.strict_crm_port}/mcp"

    @property
    def socket(self) -> str:
        """The sidecar's address, in gRPC syntax."""
        return f"unix:{self.directory}/run/authz.sock"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"

    @property
    def vkey(self) -> Path:
        """The key that verifies checkpoints. An auditor keeps a copy from the day the ledger began."""
        return self.directory / "keys" / "checkpoint.vkey"

    def svid(self, name: str) -> SvidFiles:
        files = self.directory / "svids" / name
        return SvidFiles(cert=files / "svid.pem", key=files / "svid_key.pem", bundle=files / "bundle.pem")


def authz_sidecar(*arguments: str | Path) -> CommandResult:
    """Run a command of `authz-sidecar` to its end."""
    command = [sys.executable, "-m", "authz_sidecar", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=_environment())
    return CommandResult(done.returncode, done.stdout, done.stderr)


@contextmanager
def running(directory: Path) -> Iterator[Stage]:
    """Run everything in a directory made by `authz-sidecar init`; on leaving, all of it has ended.

    Raises DidNotStart.
    """
    logs = directory / "logs"
    logs.mkdir()
    with Children(logs, environment=_environment()) as children:
        http = free_port()
        sidecar = children.start("sidecar", _sidecar_command(directory, f"127.0.0.1:{http}"))
        database = directory / "crm.sqlite"
        contacts = Contacts(database)
        contacts.create()
        offline, strict = free_port(), free_port()
        crm = _crm_command(directory, database, jwks=f"http://127.0.0.1:{http}/.well-known/jwks.json")
        introspect = f"--introspect=unix:{directory}/run/authz.sock"
        crm_offline = children.start("crm", [*crm, f"--port={offline}"])
        crm_strict = children.start("crm-strict", [*crm, f"--port={strict}", introspect])
        sidecar.wait_until(lambda: answers_ok(f"http://127.0.0.1:{http}/readyz"), within=_START_SECONDS)
        crm_offline.wait_until(lambda: accepts_connections(offline), within=_START_SECONDS)
        crm_strict.wait_until(lambda: accepts_connections(strict), within=_START_SECONDS)
        yield Stage(directory=directory, sidecar=sidecar, crm_port=offline, strict_crm_port=strict, contacts=contacts)


def answer_without_certificate(stage: Stage) -> str:
    """What the CRM answers to a TLS client that shows no certificate."""
    context = ssl.create_default_context(cafile=stage.svid("support").bundle)
    try:
        with (
            socket.create_connection(("127.0.0.1", stage.crm_port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="crm") as secured,
        ):
            secured.sendall(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = secured.recv(64)
    except (ssl.SSLError, ConnectionError) as error:
        return f"refused: {error}"
    return f"answered: {answer!r}" if answer else "refused: the connection was closed without an answer"


def _sidecar_command(directory: Path, http: str) -> list[str]:
    config = directory / "config.yaml"
    return [sys.executable, "-m", "authz_sidecar", "serve", f"--config={config}", f"--set=http.address={http}"]


def _crm_command(directory: Path, database: Path, *, jwks: str) -> list[str]:
    svid = directory / "svids" / "crm"
    # No leeway: all processes share one clock, and expiry is one of the things to be seen.
    return [
        *(sys.executable, "-m", "examples.crm", f"--database={database}", f"--svid={svid}", f"--jwks={jwks}"),
        *(f"--issuer={ISSUER}", f"--audience={AUDIENCE}", "--leeway=0"),
    ]


def _environment() -> Mapping[str, str]:
    """The environment without settings for a sidecar of the reader's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_SIDECAR_")}
