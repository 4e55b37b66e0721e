"""The scenes of the demonstration, in order. Each states claims that were checked when they are printed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from authz_sidecar.client import AsyncClient, AsyncTask, Denied, Initiator, OutcomeStatus, Permitted
from examples.agent.scripted_model import ScriptedCall, scripted_model, tool_answers
from examples.agent.support_agent import support_agent
from examples.agent.tool_server import ToolServer, ToolServerFailed, bearing, connect
from examples.demo.narration import Narration
from examples.demo.stage import Stage

TOOLS = ("crm/read_contact", "crm/search_contacts")
ADA = {"contact_id": "c-1001"}
BEN = {"contact_id": "c-1002"}
VIP = {"contact_id": "vip-7"}
_SHORT_TASK = timedelta(seconds=6)
_NO_TOKEN = ""


class NotPermitted(RuntimeError):
    """The sidecar denied what the demonstration has to show as permitted."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the scenes leave behind for the auditor."""

    task_id: str
    allowed_read: str


class Scenes:
    """One support agent at work, with the sidecar and without it."""

    def __init__(self, stage: Stage, narration: Narration) -> None:
        self._stage = stage
        self._tell = narration
        self._sidecar = AsyncClient(stage.socket, svid=stage.svid("support"), timeout=timedelta(seconds=3))

    async def play(self, keep_checkpoint: Callable[[], None]) -> Evidence:
        """All scenes; `keep_checkpoint` is called while the sidecar still runs."""
        async with (
            self._sidecar,
            self._crm(self._stage.crm, "support") as crm,
            self._crm(self._stage.crm, "analyst") as crm_as_analyst,
            self._crm(self._stage.strict_crm, "support") as strict_crm,
        ):
            task = await self.start_task()
            await self.agent_at_work(task, crm)
            allowed_read = await self.token_for_one_call(task, crm, crm_as_analyst)
            await self.expired_token(crm)
            await self.completed_task(task, crm, strict_crm)
            keep_checkpoint()
            await self.sidecar_stopped(crm)
        return Evidence(task.id, allowed_read)

    async def start_task(self) -> AsyncTask:
        self._tell.step(
            "The support agent starts a task",
            "Authority belongs to a task: a purpose, an initiator, tools, resources, a data class, an end.",
        )
        task = await self._task("answer the question of customer Okafor", ttl=timedelta(minutes=10))
        info = task.info
        self._tell.claim(
            "the sidecar started the task for the agent that its certificate names",
            info.state == "active" and info.agent == "spiffe://example.org/agent/support",
            seen=f"task {info.id} of {info.agent}, tools {', '.join(info.tools)}, ceiling {info.ceiling}",
        )
        return task

    async def agent_at_work(self, task: AsyncTask, crm: ToolServer) -> None:
        self._tell.step(
            "The agent works: pydantic-ai with a scripted model, three tool calls",
            "Each call is decided by Cedar policies, recorded, and given a token for that one call.",
        )
        before = self._stage.contacts.executed()
        script = (
            ScriptedCall("read_contact", ADA),
            ScriptedCall("update_contact", {**ADA, "discount_percent": 50}),
            ScriptedCall("read_contact", VIP),
        )
        agent = await support_agent(scripted_model(script), task, crm)
        answers = tool_answers((await agent.run("what is Ada Okafor's e-mail address?")).all_messages())
        read, update, vip = ((answer.outcome == "success", str(answer.content)) for answer in answers)
        self._tell.claim("a permitted read runs", read[0] and "ada@okafor.example" in read[1], seen=read[1])
        self._tell.claim(
            "a tool outside the task is denied, although the agent's manifest lists it",
            not update[0] and "The tool is not in the scope of the task." in update[1],
            seen=update[1],
        )
        self._tell.claim(
            "a contact above the agent's data boundary is denied",
            not vip[0] and "above the boundary in the agent's manifest" in vip[1],
            seen=vip[1],
        )
        self._nothing_ran_but(before, [("read_contact", "c-1001")])

    async def token_for_one_call(self, task: AsyncTask, crm: ToolServer, crm_as_analyst: ToolServer) -> str:
        self._tell.step(
            "An agent gone astray: it asks for one call and tries to make others with the token",
            "The CRM verifies the token offline against the connection, the tool, the arguments and the clock.",
        )
        before = self._stage.contacts.executed()
        permit = await self._permit(task, ADA)
        token = permit.token
        deletion = {**ADA, "reason": "none"}
        for sentence, expected, server, presented, tool, arguments in (
            ("another tool: refused", "wrong_tool", crm, token, "delete_contact", deletion),
            ("another contact: refused", "wrong_arguments", crm, token, "read_contact", BEN),
            ("a restricted contact: refused", "wrong_arguments", crm, token, "read_contact", VIP),
            ("stolen by the analyst agent: refused", "wrong_presenter", crm_as_analyst, token, "read_contact", ADA),
            ("no token at all: refused", "malformed", crm, _NO_TOKEN, "read_contact", ADA),
        ):
            answer = await _answer(server, presented, tool, arguments)
            self._tell.claim(sentence, answer == f"refused: {expected}", seen=answer)
        self._nothing_ran_but(before, [])
        answer = await _answer(crm, token, "read_contact", ADA)
        self._tell.claim("the call that it was granted for: accepted", "ada@okafor.example" in answer, seen=answer)
        task.report(permit, OutcomeStatus.SUCCESS, arguments=ADA, result=answer)
        self._nothing_ran_but(before, [("read_contact", "c-1001")])
        return permit.decision_id

    async def expired_token(self, crm: ToolServer) -> None:
        self._tell.step(
            "A token expires",
            f"No token outlives its task, so this task of {_SHORT_TASK.seconds} seconds gets a short one.",
        )
        task = await self._task("a short errand", ttl=_SHORT_TASK)
        permit = await self._permit(task, ADA)
        answer = await _answer(crm, permit.token, "read_contact", ADA)
        self._tell.claim("before its end: accepted", "ada@okafor.example" in answer, seen=answer)
        task.report(permit, OutcomeStatus.SUCCESS, arguments=ADA, result=answer)
        before = self._stage.contacts.executed()
        await asyncio.sleep(max(0.0, (permit.expires_at - datetime.now(UTC)).total_seconds()) + 0.1)
        answer = await _answer(crm, permit.token, "read_contact", ADA)
        self._tell.claim("the same token after its end: refused", answer == "refused: expired", seen=answer)
        self._nothing_ran_but(before, [])

    async def completed_task(self, task: AsyncTask, crm: ToolServer, strict_crm: ToolServer) -> None:
        self._tell.step(
            "The task is completed",
            "A second CRM runs in strict mode: it also asks the sidecar whether the token is still active.",
        )
        permit = await self._permit(task, ADA)
        answer = await _answer(strict_crm, permit.token, "read_contact", ADA)
        self._tell.claim("strict CRM, task active: accepted", "ada@okafor.example" in answer, seen=answer)
        task.report(permit, OutcomeStatus.SUCCESS, arguments=ADA, result=answer)
        info = await task.complete("answered")
        before = self._stage.contacts.executed()
        answer = await _answer(strict_crm, permit.token, "read_contact", ADA)
        self._tell.claim(
            "strict CRM, same token, task completed: refused",
            info.state == "completed" and answer == "refused: inactive",
            seen=f"task {info.state}; {answer}",
        )
        self._nothing_ran_but(before, [])
        denied = await task.authorize("crm", "read_contact", ADA)
        self._tell.claim(
            "a completed task gets no further permit",
            isinstance(denied, Denied) and any(policy.id == "task-not-active" for policy in denied.policies),
            seen=_decision_text(denied),
        )
        left = (permit.expires_at - datetime.now(UTC)).total_seconds()
        answer = await _answer(crm, permit.token, "read_contact", ADA)
        self._tell.claim(
            "what offline verification cannot see: the other CRM accepts this token until it expires",
            "ada@okafor.example" in answer,
            seen=f"accepted with {left:.0f} s left of its life; short lives bound this, strict mode closes it",
        )

    async def sidecar_stopped(self, crm: ToolServer) -> None:
        self._tell.step("The sidecar stops", "No decision, no token, no tool call: everything fails closed.")
        task = await self._task("a task that loses its sidecar", ttl=timedelta(minutes=10))
        before = self._stage.contacts.executed()
        code = await asyncio.to_thread(self._stage.sidecar.stop)
        self._tell.claim(
            "the sidecar ended as asked", code == 0, seen=f"process {self._stage.sidecar.pid}, code {code}"
        )
        agent = await support_agent(scripted_model([ScriptedCall("read_contact", ADA)]), task, crm)
        (answer,) = tool_answers((await agent.run("what is Ada Okafor's e-mail address?")).all_messages())
        self._tell.claim(
            "the agent's tool does not run without the sidecar",
            answer.outcome == "failed" and "not allowed: UNAVAILABLE" in str(answer.content),
            seen=str(answer.content),
        )
        self._nothing_ran_but(before, [])

    async def _task(self, purpose: str, *, ttl: timedelta) -> AsyncTask:
        return await self._sidecar.start_task(
            purpose,
            initiator=Initiator("human", "jo@example.org"),
            tools=TOOLS,
            resources=["crm:*"],
            ceiling="internal",
            ttl=ttl,
        )

    async def _permit(self, task: AsyncTask, arguments: Mapping[str, Any]) -> Permitted:
        match await task.authorize("crm", "read_contact", arguments):
            case Permitted() as permit:
                return permit
            case other:
                raise NotPermitted(f"the demonstration needs a permit here: {_decision_text(other)}")

    def _crm(self, url: str, workload: str) -> AbstractAsyncContextManager[ToolServer]:
        return connect(url, svid=self._stage.svid(workload), server_name="crm")

    def _nothing_ran_but(self, before: Sequence[tuple[str, str]], expected: Sequence[tuple[str, str]]) -> None:
        """Look the truth up in the CRM's own log."""
        ran = self._stage.contacts.executed()[len(before) :]
        said = "".join(f"{tool} {subject}, " for tool, subject in expected) or "nothing, "
        self._tell.claim(
            f"the CRM's own log agrees: {said.removesuffix(', ')} ran",
            ran == [*expected],
            seen=f"{len(ran)} tool bodies have run meanwhile",
        )


async def _answer(server: ToolServer, token: str, tool: str, arguments: Mapping[str, Any]) -> str:
    """What a tool server says to a call with a given token: its result or its refusal."""
    with bearing(token):
        try:
            return await server.call(tool, arguments)
        except ToolServerFailed as failed:
            return failed.message


def _decision_text(decision: object) -> str:
    if isinstance(decision, Denied):
        return f"denied: {decision.reason_code} ({', '.join(policy.id for policy in decision.policies)})"
    return type(decision).__name__.lower()
