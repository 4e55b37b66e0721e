"""Any history of tasks, delegations, pauses, ends, deadlines, crashes and restarts, over the real store.

Against a second description of the rules: what each step answers, which tokens are active after it, that authority
never grows along a chain, that every permit has its record, and that the projections are those of the records.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from authz_sidecar.engine.authorize import AuthorizeAnswer
from authz_sidecar.engine.startup import complete_cascade
from authz_sidecar.errors import (
    GrantExpired,
    LedgerUnavailable,
    SidecarError,
    TaskChangeRefused,
    TaskNotActive,
    TaskNotFound,
)
from authz_sidecar.ledger.options import LedgerOptions
from authz_sidecar.ledger.verify import verify
from authz_sidecar.pdp.verdict import Permit
from authz_sidecar.task.attenuation import MAX_DEPTH, excess
from authz_sidecar.task.model import TaskEvent, task_from_json
from tests.support.engine import READ, Engine, Lasting, engine
from tests.support.faulty_sqlite import Faults
from tests.support.ledger import SIGNER
from tests.support.policy_bundle import CREW, crew_pdp

T = TypeVar("T")
SEARCH = "crm/search_contacts"
FINAL = ("completed", "cancelled", "expired")
ENDS = {TaskEvent.COMPLETE: "completed", TaskEvent.CANCEL: "cancelled"}
RANKS = ("parent", "agent", "delegator", "operator")
CHANGES = (TaskEvent.SUSPEND, TaskEvent.RESUME, TaskEvent.COMPLETE, TaskEvent.CANCEL)
MEMORY = Path("/dev/shm")  # noqa: S108 - the store's files, where there is such a place


@dataclass(eq=False)
class Node:
    """A task as the second description has it."""

    id: str
    agent: str
    above: Node | None
    end: datetime
    tools: frozenset[str]
    resources: str
    state: str = "active"
    epoch: int = 1
    held: str = ""
    below: list[Node] = field(default_factory=list)

    def at(self, now: datetime) -> str:
        return self.state if self.state in FINAL or now < self.end else "expired"

    def ancestors(self) -> Iterator[Node]:
        if self.above is not None:
            yield self.above
            yield from self.above.ancestors()

    def stands(self, now: datetime) -> bool:
        return all(each.at(now) == "active" for each in (self, *self.ancestors()))

    def change(self, event: TaskEvent, now: datetime, held: str) -> None:
        """What happens to it, and to everything below."""
        if self.at(now) == "expired":
            self.state, self.held = "expired", ""
        elif event is TaskEvent.RESUME:
            self.state, self.held, self.epoch = "active", "", self.epoch + 1
        elif event is TaskEvent.SUSPEND:
            self.state, self.held = "suspended", held
        else:
            self.state, self.held = ENDS[event], ""
        for child in self.below:
            resumed = event is not TaskEvent.RESUME or child.held == "parent"
            paused = event is not TaskEvent.SUSPEND or child.at(now) != "suspended"
            if child.state in FINAL or not resumed:
                continue
            if paused:
                child.change(event, now, "parent")


@dataclass(frozen=True)
class Granted:
    token: str
    jti: str
    node: Node
    epoch: int
    expires_at: datetime


class TaskTree(RuleBasedStateMachine):
    """Drives the use cases of one sidecar; `run` is the current one."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="az-", dir=MEMORY if MEMORY.is_dir() else None))
        self.lasting = Lasting()
        self.nodes: list[Node] = []
        self.granted: list[Granted] = []
        self.commits_left: int | None = None

    # --- the sidecar ---

    @initialize()
    def begin(self) -> None:
        self._open()

    def _open(self) -> None:
        faults = Faults()
        faults.fail_on = self._fails
        self.commits_left = None
        self.context: AbstractAsyncContextManager[Engine] = engine(
            self.directory,
            lasting=self.lasting,
            policy=crew_pdp,
            connect=faults.connect,
            # Each record is a transaction of its own, so that a crash can come between any two.
            options=LedgerOptions(max_batch=1, checkpoint_interval=timedelta(hours=1)),
        )
        self.run = self._wait(self.context.__aenter__())
        self._wait(complete_cascade(self.run.core))

    def _fails(self, sql: str) -> bool:
        if sql != "COMMIT" or self.commits_left is None:
            return False
        self.commits_left -= 1
        return self.commits_left < 0

    def _close(self) -> None:
        self._wait(self.run.core.voids.written(5))
        self._wait(self.context.__aexit__(None, None, None))

    def _wait(self, awaitable: Awaitable[T]) -> T:
        async def run() -> T:
            return await awaitable

        return self.loop.run_until_complete(run())

    @property
    def now(self) -> datetime:
        return self.run.core.record_time()

    def pick(self, data: st.DataObject) -> Node:
        return data.draw(st.sampled_from(self.nodes), label="task")

    # --- steps ---

    @rule(name=st.sampled_from(CREW), ttl=st.integers(5, 120), narrow=st.booleans())
    def start(self, name: str, ttl: int, narrow: bool) -> None:
        tools = (READ,) if narrow else (READ, SEARCH)
        resources = "crm:contact/*" if narrow else "crm:*"
        task_id = self._wait(self.run.task(name, tools=tools, resources=(resources,), ttl=ttl))
        end = self.now + timedelta(seconds=ttl)
        self.nodes.append(Node(task_id, name, None, end, frozenset(tools), resources))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def hand_on(self, data: st.DataObject) -> None:
        """A delegation that fits, as often as there is somebody left, so that trees grow."""
        parent = self.pick(data)
        chain = [parent, *parent.ancestors()]
        others = [name for name in CREW if name not in [each.agent for each in chain]]
        if parent.stands(self.now) and len(chain) <= MAX_DEPTH:
            tools, to = tuple(sorted(parent.tools)), data.draw(st.sampled_from(others), label="to")
            self.delegate_to(parent, to, None, tools, parent.resources)

    @precondition(lambda self: self.nodes)
    @rule(
        data=st.data(),
        to=st.sampled_from(CREW),
        ttl=st.none() | st.integers(1, 150),
        tools=st.sampled_from([(READ,), (READ, SEARCH), (SEARCH,)]),
        resources=st.sampled_from(["crm:*", "crm:contact/*", "crm:contact/c-1001", "*"]),
    )
    def delegate(self, data: st.DataObject, to: str, ttl: int | None, tools: tuple[str, ...], resources: str) -> None:
        self.delegate_to(self.pick(data), to, ttl, tools, resources)

    def delegate_to(self, parent: Node, to: str, ttl: int | None, tools: tuple[str, ...], resources: str) -> None:
        now = self.now
        chain = [parent, *parent.ancestors()]
        wider = ["*", "crm:*", "crm:contact/*", "crm:contact/c-1001"]
        fits = (
            frozenset(tools) <= parent.tools
            and wider.index(resources) >= wider.index(parent.resources)
            and (ttl is None or now + timedelta(seconds=ttl) <= parent.end)
            and to not in [each.agent for each in chain]
            and len(chain) <= MAX_DEPTH
            and parent.stands(now)
        )
        try:
            answer = self._wait(
                self.run.delegate(parent.id, parent.agent, to=to, tools=tools, resources=(resources,), ttl=ttl)
            )
        except TaskNotActive:
            assert ttl is None
            assert parent.end <= now
            return
        assert (answer.task is not None) == fits
        if answer.task is not None:
            child = Node(answer.task.id, to, parent, answer.task.expires_at, frozenset(tools), resources)
            parent.below.append(child)
            self.nodes.append(child)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def authorize(self, data: st.DataObject) -> None:
        node, now = self.pick(data), self.now
        answer = self._wait(self.run.ask(node.id, node.agent))
        room = node.end - now >= timedelta(seconds=1)
        assert isinstance(answer.verdict, Permit) == (node.stands(now) and READ in node.tools and room)
        self._remember(node, answer)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), agent=st.sampled_from(CREW))
    def authorize_for_another(self, data: st.DataObject, agent: str) -> None:
        node = self.pick(data)
        if agent != node.agent:
            answer = self._wait(self.run.ask(node.id, agent))
            assert answer.verdict.reason_code == "task_not_found"

    @precondition(lambda self: self.nodes)
    @rule(
        data=st.data(), event=st.sampled_from(CHANGES), agent=st.none() | st.sampled_from(CREW), operator=st.booleans()
    )
    def change(self, data: st.DataObject, event: TaskEvent, agent: str | None, operator: bool) -> None:
        node = self.pick(data)
        who = agent or node.agent
        expected = self._expected(node, event, who, operator)
        answered = self._wait(self._changed(node, event, who, operator))
        assert answered in expected
        if answered is None:
            self._apply(node, event, who, operator)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), event=st.sampled_from(CHANGES), ahead=st.booleans())
    def authorize_while_it_changes(self, data: st.DataObject, event: TaskEvent, ahead: bool) -> None:
        """No token leaves after a suspension or an end that was begun before the permit was recorded."""
        changed = self.pick(data)
        node = data.draw(st.sampled_from([changed, *changed.below]), label="asked about")
        expected = self._expected(changed, event, changed.agent, operator=True)

        async def ask() -> AuthorizeAnswer | SidecarError:
            try:
                return await self.run.ask(node.id, node.agent)
            except (TaskNotActive, GrantExpired) as error:
                return error

        async def both() -> tuple[AuthorizeAnswer | SidecarError, type[SidecarError] | None]:
            steps: list[Any] = [ask(), self._changed(changed, event, changed.agent, operator=True)]
            results = await asyncio.gather(*(steps if ahead else steps[::-1]))
            return (results[0], results[1]) if ahead else (results[1], results[0])

        answer, answered = self._wait(both())
        assert answered in expected
        if isinstance(answer, AuthorizeAnswer):
            if answered is None:
                assert answer.token is None or event is TaskEvent.RESUME
            self._remember(node, answer)
        if answered is None:
            self._apply(changed, event, changed.agent, operator=True)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), event=st.sampled_from(CHANGES), stored=st.integers(0, 4))
    def change_and_crash(self, data: st.DataObject, event: TaskEvent, stored: int) -> None:
        """The process dies when `stored` records of the change are durable: the next start completes what began."""
        node = max(self.pick(data), self.pick(data), key=lambda each: len(each.below))
        expected = self._expected(node, event, node.agent, operator=True)
        self._wait(self.run.core.voids.written(5))
        self.commits_left = stored
        answered = self._wait(self._changed(node, event, node.agent, operator=True))
        assert answered in {*expected, LedgerUnavailable}
        begun = stored > 0 and None in expected
        if begun:
            self._apply(node, event, node.agent, operator=True)
        self._close()
        self._open()

    @rule(seconds=st.sampled_from([0.5, 1, 3, 10, 40]))
    def time_passes(self, seconds: float) -> None:
        self.lasting.clock.advance(seconds)

    @rule()
    def clock_steps_back(self) -> None:
        """Within the tolerance; a larger step stops all decisions, which is tested elsewhere."""
        last = self.run.core.ledger.last_time
        if last is None or self.lasting.clock.time - timedelta(seconds=1) > last - timedelta(seconds=2):
            self.lasting.clock.advance(-1)

    @rule()
    def expiries_are_recorded(self) -> None:
        now = self.now
        while self._wait(self.run.expiry.expire_due()):
            pass
        for node in self.nodes:
            if node.state not in FINAL and now >= node.end:
                node.state, node.held = "expired", ""
            stored = self.run.core.ledger.load_task(node.id)
            assert stored is not None
            assert stored["state"] == node.at(now)

    @rule()
    def restart(self) -> None:
        self._close()
        self._open()

    # --- the second description ---

    def _expected(self, node: Node, event: TaskEvent, who: str, operator: bool) -> set[type[SidecarError] | None]:
        """What a change may answer; None for success."""
        now = self.now
        delegator = who in [each.agent for each in node.ancestors()]
        if not (operator or delegator or who == node.agent):
            return {TaskNotFound}
        final = {TaskNotActive} if node.at(now) in FINAL else set()
        if event is TaskEvent.RESUME:
            outranked = (node.held == "operator" and not operator) or (
                node.held == "delegator" and not operator and not delegator
            )
            if outranked or not all(each.at(now) == "active" for each in node.ancestors()):
                return {TaskChangeRefused, *final}
        if event is TaskEvent.COMPLETE and not operator and who != node.agent:
            return {TaskChangeRefused}
        if final:
            return {TaskNotActive}
        if event is TaskEvent.RESUME and node.state != "suspended":
            return {TaskNotActive}
        if event is TaskEvent.SUSPEND and node.state == "suspended":
            takes_over = RANKS.index(self._rank(node, who, operator)) > RANKS.index(node.held)
            return {None} if takes_over else {TaskNotActive}
        return {None}

    def _rank(self, node: Node, who: str, operator: bool) -> str:
        return "operator" if operator else "agent" if who == node.agent else "delegator"

    async def _changed(self, node: Node, event: TaskEvent, who: str, operator: bool) -> type[SidecarError] | None:
        try:
            await self.run.change(event, node.id, who, operator=operator)
        except (TaskNotFound, TaskNotActive, TaskChangeRefused, LedgerUnavailable) as error:
            return type(error)
        return None

    def _apply(self, node: Node, event: TaskEvent, who: str, operator: bool) -> None:
        node.change(event, self.now, self._rank(node, who, operator))

    def _remember(self, node: Node, answer: AuthorizeAnswer) -> None:
        if answer.token is not None:
            token = answer.token
            self.granted.append(Granted(token.value, token.jti, node, node.epoch, token.expires_at))

    # --- what always holds ---

    @invariant()
    def exactly_the_tokens_of_running_tasks_are_active(self) -> None:
        for each in self.granted:
            alive = self.now < each.expires_at and each.node.stands(self.now) and each.node.epoch == each.epoch
            assert self.run.active(each.token) is alive

    @invariant()
    def tasks_are_as_described(self) -> None:
        for node in self.nodes:
            live = self.run.core.tasks.get(node.id)
            assert live is not None
            task = live.task
            assert (task.state_at(self.now).value, task.epoch) == (node.at(self.now), node.epoch)
            if node.at(self.now) == "suspended":
                assert task.held_by == node.held

    @invariant()
    def every_permit_has_its_record(self) -> None:
        for each in self.granted:
            entry = self.run.core.ledger.jti_entry(each.jti)
            assert entry is not None
            assert entry.record["outcome"] == "permit"

    @invariant()
    def authority_never_grows(self) -> None:
        level = crew_pdp().bundle.data.level
        for node in self.nodes:
            if node.above is not None:
                child, parent = (self.run.core.ledger.load_task(each.id) for each in (node, node.above))
                assert child is not None
                assert parent is not None
                assert not excess(task_from_json(child), task_from_json(parent), level)

    def teardown(self) -> None:
        try:
            self._close()
            result = verify(self.directory, vkey=SIGNER.vkey)
            assert result.kind == "verified_unanchored", result
            self._permits_are_granted_or_void()
        finally:
            self.loop.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _permits_are_granted_or_void(self) -> None:
        """No permit in the log but those whose token was handed out, and those that say that it was not."""
        with sqlite3.connect(f"file:{self.directory}/ledger.db?mode=ro", uri=True) as connection:
            permits = connection.execute(
                "SELECT decision_id, jti FROM record_index WHERE type = 'decision' AND outcome = 'permit'"
            ).fetchall()
            void = {
                row[0] for row in connection.execute("SELECT decision_id FROM record_index WHERE type = 'grant_void'")
            }
        connection.close()
        handed_out = {each.jti for each in self.granted}
        assert {jti for decision_id, jti in permits if decision_id not in void} == handed_out


_ORDINARY = settings(
    max_examples=300, stateful_step_count=16, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

TestTaskTree = TaskTree.TestCase
TestTaskTree.settings = _ORDINARY


@pytest.mark.slow
def test_two_thousand_histories() -> None:
    run_state_machine_as_test(TaskTree, settings=settings(_ORDINARY, max_examples=2000, stateful_step_count=20))
