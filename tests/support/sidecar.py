"""A real sidecar for tests: `init` makes its world, `serve` runs it as a process, channels speak to it over mutual TLS."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from authz_sidecar.client import SvidFiles
from authz_sidecar.clock import system_now
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.v1 import (
    admin_pb2_grpc,
    authorization_pb2,
    authorization_pb2_grpc,
    common_pb2,
    ledger_pb2,
    ledger_pb2_grpc,
    policy_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    token_pb2,
    token_pb2_grpc,
)

PROGRAM = (sys.executable, "-m", "authz_sidecar")
AUDIENCE = "https://crm.example.org"
READ = "crm/read_contact"
CONTACT = {"contact_id": "c-1001"}


@dataclass(slots=True)
class World:
    """A directory made by `init`: trust domain, keys, SVIDs, policies, configuration. Short, for the socket path."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "authz.sock"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"

    @property
    def vkey(self) -> Path:
        return self.directory / "keys" / "checkpoint.vkey"

    def svid(self, name: str) -> Path:
        return self.directory / "svids" / name

    def svid_files(self, name: str) -> SvidFiles:
        """The same for the product's client."""
        svid = self.svid(name)
        return SvidFiles(cert=svid / "svid.pem", key=svid / "svid_key.pem", bundle=svid / "bundle.pem")

    def jwt_svid(self, path: str, *, audience: str = "spiffe://example.org/authz-sidecar") -> str:
        """A fresh JWT-SVID of a workload of the trust domain, for the sidecar unless another audience is named."""
        authority = DevAuthority.load(self.directory / "authority")
        spiffe_id = SpiffeId.parse(f"spiffe://example.org{path}")
        return authority.issue_jwt_svid(spiffe_id, audience=audience, ttl=timedelta(minutes=5), now=system_now())

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the command line in this directory."""
        return subprocess.run(
            [*PROGRAM, *arguments], cwd=self.directory, capture_output=True, text=True, timeout=timeout, check=False
        )

    def channel(self, name: str, *, target: str | None = None) -> grpc.Channel:
        """A synchronous channel as one of the workloads that `init` made."""
        svid = self.svid(name)
        credentials = grpc.ssl_channel_credentials(
            (svid / "bundle.pem").read_bytes(), (svid / "svid_key.pem").read_bytes(), (svid / "svid.pem").read_bytes()
        )
        options = [("grpc.ssl_target_name_override", "authz-sidecar"), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(target or f"unix:{self.socket}", credentials, options=options)


@contextmanager
def world(*init: str) -> Iterator[World]:
    """A fresh world, removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
    try:
        made = World(directory / "w")
        result = subprocess.run(
            [*PROGRAM, "init", str(made.directory), *init], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def copy_of(template: World) -> Iterator[World]:
    """A world like it before its first start, without running `init`: every path in its configuration is relative."""
    directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
    try:
        left_out = shutil.ignore_patterns("*.sock", "*.lock", "ledger", "serve-*.log")
        yield World(shutil.copytree(template.directory, directory / "w", ignore=left_out))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class CannotStart(RuntimeError):
    """`serve` ended before it served."""


@dataclass(slots=True)
class Sidecar:
    """One `serve` process. `log` holds its lines so far."""

    world: World
    process: subprocess.Popen[bytes]
    log_path: Path
    serving: dict[str, object] = field(default_factory=dict)
    ready_seconds: float = 0.0

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.serving['http_port']}"

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def not_ready(self) -> list[str]:
        """What `/readyz` says is missing; empty when it answers 200."""
        try:
            with urllib.request.urlopen(f"{self.http}/readyz", timeout=10):
                return []
        except urllib.error.HTTPError as error:
            with error:
                reasons: list[str] = json.load(error)["reasons"]
                return reasons

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(made: World, *overrides: str, wait: float = 30, prefix: Sequence[str] = ()) -> Sidecar:
    """Start `serve` and wait until it serves. Raises CannotStart with what it said.

    `prefix` goes before the command, for example a limit on its file sizes.
    """
    flags = [flag for override in ("http.address=127.0.0.1:0", *overrides) for flag in ("--set", override)]
    log_path = made.directory / f"serve-{secrets.token_hex(4)}.log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*prefix, *PROGRAM, "serve", "--config", str(made.config), "-o", "json", *flags],
            stdout=log,
            stderr=log,
            cwd=made.directory,
            env=environment,
        )
    sidecar = Sidecar(made, process, log_path)
    started = time.monotonic()
    deadline = started + wait
    while time.monotonic() < deadline:
        for line in sidecar.log.splitlines():
            if line.startswith("{") and '"serving"' in line:
                event = json.loads(line)
                if event.get("event") == "serving":
                    sidecar.serving = event
                    sidecar.ready_seconds = time.monotonic() - started
                    return sidecar
        if process.poll() is not None:
            raise CannotStart(f"exit code {process.returncode}: {sidecar.log}")
        time.sleep(0.02)
    sidecar.kill()
    raise CannotStart(f"not serving after {wait} s: {sidecar.log}")


@contextmanager
def running(made: World, *overrides: str) -> Iterator[Sidecar]:
    """A sidecar for the length of a block."""
    sidecar = start(made, *overrides)
    try:
        yield sidecar
    finally:
        if sidecar.process.poll() is None:
            sidecar.kill()


def refused(made: World, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A `serve` that is expected to end before it serves. Its listeners and its directories are left to the caller."""
    flags = [flag for override in ("http.address=127.0.0.1:0", *overrides) for flag in ("--set", override)]
    return made.run("serve", "--config", str(made.config), *flags, timeout=30)


class Caller:
    """Raw stubs as one workload. The product's client is tested elsewhere; here every field is in the test's hands."""

    def __init__(
        self, made: World, name: str = "support", *, target: str | None = None, channel: grpc.Channel | None = None
    ) -> None:
        self.channel = channel or made.channel(name, target=target)
        self.authorization = authorization_pb2_grpc.AuthorizationServiceStub(self.channel)
        self.tasks = task_pb2_grpc.TaskServiceStub(self.channel)
        self.tokens = token_pb2_grpc.TokenServiceStub(self.channel)
        self.policy = policy_pb2_grpc.PolicyServiceStub(self.channel)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def start_task(self, **changes: object) -> str:
        """A started task's id."""
        response = self.tasks.StartTask(start_task(**changes), timeout=20)
        assert response.outcome == common_pb2.OUTCOME_PERMIT, response
        return response.task.task_id

    def delegate(self, parent_id: str, **changes: object) -> task_pb2.DelegateTaskResponse:
        return self.tasks.DelegateTask(delegate(parent_id, **changes), timeout=20)

    def authorize(self, task_id: str, **changes: object) -> authorization_pb2.AuthorizeResponse:
        return self.authorization.Authorize(authorize(task_id, **changes), timeout=20)

    def complete(self, task_id: str) -> task_pb2.CompleteTaskResponse:
        return self.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)

    def state(self, task_id: str) -> int:
        return self.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id), timeout=20).task.state

    def record(self, index: int) -> dict[str, Any]:
        """One record of the ledger, asked as an auditor."""
        entry = self.ledger.GetRecord(ledger_pb2.GetRecordRequest(index=index), timeout=20).record
        body: dict[str, Any] = json.loads(entry.entry_json)
        return body

    def introspect(self, token: str) -> bool:
        """Whether the token is active, asked as a tool server."""
        return self.tokens.IntrospectToken(token_pb2.IntrospectTokenRequest(token=token), timeout=20).active


def start_task(
    *, tools: Sequence[str] = (READ,), resources: Sequence[str] = ("crm:*",), ceiling: str = "internal", ttl: int = 0,
    request_id: str = "", **changes: object,
) -> task_pb2.StartTaskRequest:  # fmt: skip
    request = task_pb2.StartTaskRequest(
        request_id=request_id or secrets.token_hex(8),
        purpose="answer a ticket",
        objective="find the customer's address",
        initiator=common_pb2.Initiator(kind=common_pb2.INITIATOR_KIND_HUMAN, id="maria"),
        scope=task_pb2.TaskScope(tools=tools, resources=resources, ceiling=ceiling),
        **changes,
    )
    if ttl:
        request.ttl.FromSeconds(ttl)
    return request


def delegate(
    parent_id: str, *, agent: str = "analyst", tools: Sequence[str] = (READ,), resources: Sequence[str] = ("crm:*",),
    ceiling: str = "internal", ttl: int = 0, request_id: str = "", **changes: object,
) -> task_pb2.DelegateTaskRequest:  # fmt: skip
    request = task_pb2.DelegateTaskRequest(
        request_id=request_id or secrets.token_hex(8),
        parent_task_id=parent_id,
        agent=agent if "/" in agent else f"spiffe://example.org/agent/{agent}",
        purpose="look up the address",
        scope=task_pb2.TaskScope(tools=tools, resources=resources, ceiling=ceiling),
        **changes,
    )
    if ttl:
        request.ttl.FromSeconds(ttl)
    return request


def authorize(
    task_id: str, *, tool: str = READ, arguments: object = None, request_id: str = "", **changes: object
) -> authorization_pb2.AuthorizeRequest:
    server, _, name = tool.partition("/")
    fields: dict[str, object] = {
        "request_id": request_id or secrets.token_hex(8),
        "task_id": task_id,
        "tool_server": server,
        "tool_name": name,
        "tool_call_id": "call_1",
    }
    if "arguments_sha256" not in changes:
        given = CONTACT if arguments is None else arguments
        fields["arguments_json"] = given if isinstance(given, bytes) else json.dumps(given).encode()
    return authorization_pb2.AuthorizeRequest(**{**fields, **changes})


def error_of(error: grpc.RpcError) -> common_pb2.Error:
    """The project's error trailer of a failed call."""
    trailers = dict(error.trailing_metadata() or ())
    assert "authz-error-bin" in trailers, f"{error.code()}: {error.details()}"
    return common_pb2.Error.FromString(trailers["authz-error-bin"])


def wait_until(holds: Callable[[], object], *, seconds: float = 20) -> None:
    """Poll until it holds. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(0.02)


def failure(call: Callable[..., object], *arguments: object) -> tuple[grpc.StatusCode, common_pb2.Error]:
    """Status and error trailer of a call that must fail."""
    try:
        answer = call(*arguments)
    except grpc.RpcError as error:
        return error.code(), error_of(error)
    raise AssertionError(f"expected an error, got an answer: {type(answer).__name__}")
