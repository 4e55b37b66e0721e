"""The use cases in this process: a real ledger, the starter policies, a real minter, and a clock that tests move."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from authz_sidecar.engine.authorize import Authorize, AuthorizeAnswer
from authz_sidecar.engine.commands import (
    AuthorizeCommand,
    CommandLimits,
    DelegateTaskCommand,
    StartTaskCommand,
    authorize_command,
    delegate_task_command,
    start_task_command,
)
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.delegation import DelegateTask, DelegateTaskAnswer
from authz_sidecar.engine.expiry import ExpireTasks
from authz_sidecar.engine.introspect import IntrospectToken
from authz_sidecar.engine.lifecycle import ChangeTask, TransitionAnswer
from authz_sidecar.engine.options import EngineOptions
from authz_sidecar.engine.tasks import GetTask, ListTasks, StartTask
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import TaskEvent
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
        not_after=START + timedelta(days=1),
        x5t_s256="A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0",
    )


def _serial() -> Callable[[], str]:
    serial = itertools.count(1)
    return lambda: f"id-{next(serial)}"


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """What a restart keeps beside the ledger."""

    clock: Clock = field(default_factory=Clock)
    keyring: KeyRing = field(default_factory=lambda: KeyRing(SigningKey.generate()))
    new_id: Callable[[], str] = field(default_factory=_serial)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The use cases over one core."""

    core: Core
    clock: Clock
    authorize: Authorize
    start_task: StartTask
    change_task: ChangeTask
    delegate_task: DelegateTask
    get_task: GetTask
    list_tasks: ListTasks
    expiry: ExpireTasks
    introspect: IntrospectToken

    async def complete_task(self, who: Subject, task_id: str, note: str) -> TransitionAnswer:
        return await self.change_task(who, TaskEvent.COMPLETE, task_id, note, operator=False)

    async def change(
        self, event: TaskEvent, task_id: str, name: str = "support", *, operator: bool = False
    ) -> TransitionAnswer:
        return await self.change_task(subject(name), event, task_id, "", operator=operator)

    async def delegate(self, parent_id: str, name: str = "support", **changes: Any) -> DelegateTaskAnswer:
        return await self.delegate_task(subject(name), delegation(parent_id, **changes))

    async def child(self, parent_id: str, name: str = "support", **changes: Any) -> str:
        """A delegated task's id."""
        answer = await self.delegate(parent_id, name, **changes)
        assert answer.task is not None, answer
        return answer.task.id

    def active(self, token: str) -> bool:
        return self.introspect(token).claims is not None

    def records(self, *types: str) -> list[dict[str, Json]]:
        """Bodies of the records of these types, in order; of all without any."""
        entries = (self.core.ledger.entry(index) for index in range(self.core.ledger.size))
        return [dict(entry.record) for entry in entries if entry and (not types or entry.record["type"] in types)]

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
    lasting: Lasting | None = None,
    policy: Callable[[], Pdp] = starter_pdp,
    **changes: Any,
) -> AsyncIterator[Engine]:
    """`lasting` is what an earlier run left beside its ledger; `changes` go to `open_ledger`."""
    lasting = lasting or Lasting()
    clock, keyring = lasting.clock, lasting.keyring
    ledger = open_ledger(directory, now=clock, **changes)
    core = Core(
        ledger=ledger,
        policy=policy,
        minter=Minter(keyring, ISSUER, new_jti=lambda: secrets.token_hex(16)),
        options=EngineOptions(environment="development", production=False, append_deadline=deadline),
        metrics=Metrics(),
        now=clock,
        new_id=lasting.new_id,
    )
    try:
        yield Engine(
            core=core,
            clock=clock,
            authorize=Authorize(core),
            start_task=StartTask(core),
            change_task=ChangeTask(core),
            delegate_task=DelegateTask(core),
            get_task=GetTask(core),
            list_tasks=ListTasks(core),
            expiry=ExpireTasks(core),
            introspect=IntrospectToken(core, IssuedTokens(keyring, ISSUER, now=core.record_time).read),
        )
    finally:
        await ledger.close()


def delegation(
    parent_id: str,
    *,
    to: str = "analyst",
    request_id: str = "",
    tools: tuple[str, ...] = (READ,),
    resources: tuple[str, ...] = ("*",),
    ceiling: str = "internal",
    ttl: float | None = None,
) -> DelegateTaskCommand:
    """`to`: name of the agent; `ttl` in seconds."""
    return delegate_task_command(
        request_id=request_id or secrets.token_hex(8),
        parent_task_id=parent_id,
        agent=agent_id(to),
        purpose="look it up",
        tools=tools,
        resources=resources,
        ceiling=ceiling,
        ttl=timedelta(seconds=ttl) if ttl is not None else None,
        traceparent="",
        class_exists=lambda _: True,
    )


def start(
    *,
    request_id: str = "",
    tools: tuple[str, ...] = (READ,),
    resources: tuple[str, ...] = ("*",),
    ceiling: str = "internal",
    ttl: float | None = None,
) -> StartTaskCommand:
    return start_task_command(
        request_id=request_id or secrets.token_hex(8),
        purpose="answer a ticket",
        objective="",
        initiator_kind="human",
        initiator_id="maria",
        tools=tools,
        resources=resources,
        ceiling=ceiling,
        ttl=timedelta(seconds=ttl) if ttl is not None else None,
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
