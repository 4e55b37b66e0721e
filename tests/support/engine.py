"""The use cases in this process: a real ledger, the starter policies, a real minter, and a clock that tests move."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from authz_sidecar.engine.authorize import Authorize, AuthorizeAnswer
from authz_sidecar.engine.commands import (
    AuthorizeCommand,
    CommandLimits,
    StartTaskCommand,
    authorize_command,
    start_task_command,
)
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.introspect import IntrospectToken
from authz_sidecar.engine.options import EngineOptions
from authz_sidecar.engine.revocations import Revocations
from authz_sidecar.engine.tasks import CompleteTask, StartTask
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.telemetry.metrics import Metrics
from authz_sidecar.token.issued import IssuedTokens
from authz_sidecar.token.keys import KeyRing, SigningKey
from authz_sidecar.token.mint import Minter
from tests.support.ledger import START, Clock, open_ledger
from tests.support.policy_bundle import agent_id, starter_pdp

ISSUER = "https://authz.example.org"
READ = "crm/read_contact"


def subject(name: str = "support") -> Subject:
    return Subject(
        spiffe_id=SpiffeId.parse_workload(agent_id(name)),
        method="x509-svid",
        credential_sha256="11" * 32,
        not_after=START + timedelta(hours=1),
        x5t_s256="A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0",
    )


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The use cases over one core."""

    core: Core
    clock: Clock
    authorize: Authorize
    start_task: StartTask
    complete_task: CompleteTask
    introspect: IntrospectToken

    async def task(self, name: str = "support", **changes: Any) -> str:
        """A started task's id."""
        answer = await self.start_task(subject(name), start(**changes))
        assert answer.task is not None
        return answer.task.id

    async def ask(self, task_id: str, name: str = "support", **changes: Any) -> AuthorizeAnswer:
        return await self.authorize(subject(name), call(task_id, **changes))

    def types(self) -> list[str]:
        """Types of all records, in order."""
        entries = (self.core.ledger.entry(index) for index in range(self.core.ledger.size))
        return [str(entry.record["type"]) for entry in entries if entry is not None]


@asynccontextmanager
async def engine(
    directory: Path,
    *,
    deadline: timedelta = timedelta(seconds=5),
    clock: Clock | None = None,
    keyring: KeyRing | None = None,
    serial: Iterator[int] | None = None,
    **changes: Any,
) -> AsyncIterator[Engine]:
    """`clock`, `keyring` and `serial` are what a restart keeps; `changes` go to `open_ledger`."""
    clock = clock or Clock()
    ledger = open_ledger(directory, now=clock, **changes)
    keyring = keyring or KeyRing(SigningKey.generate())
    serial = serial or itertools.count(1)
    revocations: list[Revocations] = []

    def key_revoked(kid: str) -> bool:
        return any(one.key_revoked(kid) for one in revocations)

    core = Core(
        ledger=ledger,
        policy=starter_pdp,
        minter=Minter(keyring, ISSUER, new_jti=lambda: secrets.token_hex(16), key_revoked=key_revoked),
        options=EngineOptions(environment="development", production=False, append_deadline=deadline),
        metrics=Metrics(),
        now=clock,
        new_id=lambda: f"id-{next(serial)}",
    )
    revocations.append(core.revocations)
    try:
        yield Engine(
            core=core,
            clock=clock,
            authorize=Authorize(core),
            start_task=StartTask(core),
            complete_task=CompleteTask(core),
            introspect=IntrospectToken(
                core, IssuedTokens(keyring, ISSUER, now=core.record_time, key_revoked=key_revoked).read
            ),
        )
    finally:
        await ledger.close()


def start(*, request_id: str = "", tools: tuple[str, ...] = (READ,), ceiling: str = "internal") -> StartTaskCommand:
    return start_task_command(
        request_id=request_id or secrets.token_hex(8),
        purpose="answer a ticket",
        objective="",
        initiator_kind="human",
        initiator_id="maria",
        tools=tools,
        resources=("*",),
        ceiling=ceiling,
        ttl=None,
        traceparent="",
        class_exists=lambda _: True,
    )


def call(
    task_id: str,
    *,
    request_id: str = "",
    tool: str = READ,
    arguments: bytes | None = b'{"contact_id":"c-1001"}',
    resource: str = "",
) -> AuthorizeCommand:
    server, _, name = tool.partition("/")
    return authorize_command(
        request_id=request_id or secrets.token_hex(8),
        task_id=task_id,
        tool_server=server,
        tool_name=name,
        arguments_json=arguments,
        arguments_digest=None if arguments is not None else hashlib.sha256(b"body").digest(),
        resource=resource,
        audience="",
        justification="",
        tool_call_id="",
        traceparent="",
        proof_key_thumbprint="",
        min_policy_digest="",
        at_least_epoch=0,
        limits=CommandLimits(),
    )
