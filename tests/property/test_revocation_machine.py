"""Any history of permits, revocations, suspensions, task ends and restarts, against the real store and a plain model.

No token is active after a revocation that covers it, no other token dies, and whoever follows the feed, with pauses and
reconnections, says the same as introspection.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authz_sidecar.engine.feed import FeedOptions, Heartbeat, RevocationFeed, Snapshot
from authz_sidecar.engine.revoke import RevokeToken, revoke_command
from authz_sidecar.engine.suspend import ChangeStanding
from authz_sidecar.errors import AgentNotSuspended, GrantRevoked
from authz_sidecar.ledger.verify import verify
from authz_sidecar.pdp.verdict import Permit
from authz_sidecar.revoked import EVERY_AGENT, RevokedSet
from authz_sidecar.token.keys import KeyRing, SigningKey
from authz_sidecar.verifier import Presenter, Reason, TokenRejected, TokenVerifier
from tests.support.engine import ISSUER, READ, Engine, Lasting, engine, subject
from tests.support.ledger import SIGNER, Clock
from tests.support.policy_bundle import agent_id

T = TypeVar("T")
KEY = SigningKey.generate()
AGENTS = ("support", "analyst")
OPERATOR = subject("operator")
CONTACT = {"contact_id": "c-1001"}
agents = st.sampled_from(AGENTS)
X5T = subject().x5t_s256


@dataclass
class Granted:
    """A token that its agent got. `raced`: it was granted beside a revocation, on either side of it."""

    value: str
    jti: str
    agent: str
    task_id: str
    audience: str
    dead: bool = False
    raced: bool = False


class Follower:
    """What a tool server makes of the feed, one message at a time."""

    def __init__(self) -> None:
        self.revoked = RevokedSet()
        self.sequence = 0

    async def catch_up(self, feed: RevocationFeed, now: float) -> None:
        """Connect, read until the first sign of life, and hang up: a reconnection at every step."""
        watch = feed.watch(self.sequence)
        try:
            async for message in watch:
                if isinstance(message, Heartbeat):
                    assert message.sequence == self.sequence
                    break
                if isinstance(message, Snapshot):
                    assert not message.more
                    self.revoked = RevokedSet(message.revocations)
                    self.sequence = message.sequence
                else:
                    assert message.sequence == self.sequence + 1
                    self.sequence = message.sequence
                    self.revoked.add(message)
        finally:
            await watch.aclose()
        self.revoked.forget_expired(now)


class Revocation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
        self.clock = Clock()
        self.lasting = Lasting(clock=self.clock, keyring=KeyRing(KEY))
        self.tokens: list[Granted] = []
        self.tasks: list[tuple[str, str]] = []
        self.suspended: set[str] = set()
        self.follower = Follower()
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def open(self) -> None:
        self.stack = AsyncExitStack()
        opened = engine(self.directory / "l", lasting=self.lasting)
        self.engine: Engine = self.run(self.stack.enter_async_context(opened))
        core = self.engine.core
        self.revoke = RevokeToken(core)
        self.standing = ChangeStanding(core)
        self.feed = RevocationFeed(
            core.ledger, now=self.clock, options=FeedOptions(heartbeat=timedelta(milliseconds=1), most_replayed=3)
        )
        core.revocations.follow(self.feed.publish)

    def stopped(self, agent: str) -> bool:
        return not self.suspended.isdisjoint({agent, EVERY_AGENT})

    @initialize()
    def tasks_start(self) -> None:
        for name in (*AGENTS, *AGENTS):
            self.tasks.append((self.run(self.engine.task(name, tools=("crm/read_contact",))), name))

    @rule(which=st.integers(0, 3))
    def call(self, which: int) -> None:
        task_id, name = self.tasks[which]
        answer = self.run(self.engine.ask(task_id, name))
        assert isinstance(answer.verdict, Permit) == (answer.token is not None)
        if self.stopped(name):
            assert answer.token is None
        if answer.token is not None:
            self.keep(answer.token, name, task_id)

    def keep(self, token: Any, name: str, task_id: str, *, raced: bool = False) -> None:
        self.tokens.append(Granted(token.value, token.jti, name, task_id, token.audience, raced=raced))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def one_token_is_revoked(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens))
        form, value = data.draw(st.sampled_from([("jti", token.jti), ("token", token.value)]))
        own = data.draw(st.booleans())
        by = subject(token.agent) if own else OPERATOR
        self.run(self.revoke(by, revoke_command(form, value, ""), any_agent=not own))
        token.dead = True

    @rule()
    def an_unknown_token_is_revoked(self) -> None:
        self.run(self.revoke(OPERATOR, revoke_command("jti", f"nobody-{self.lasting.new_id()}", ""), any_agent=True))

    @rule(which=st.integers(0, 3), kind=st.sampled_from(["task_id", "agent"]))
    def everything_so_far_is_revoked(self, which: int, kind: str) -> None:
        task_id, name = self.tasks[which]
        target = task_id if kind == "task_id" else agent_id(name)
        self.run(self.revoke(OPERATOR, revoke_command(kind, target, ""), any_agent=True))
        for token in self.tokens:
            token.dead |= token.task_id == task_id if kind == "task_id" else token.agent == name

    @rule(which=st.integers(0, 3), kind=st.sampled_from(["task_id", "agent", "suspend"]), turns=st.integers(0, 4))
    def a_revocation_races_a_permit(self, which: int, kind: str, turns: int) -> None:
        task_id, name = self.tasks[which]

        async def stop() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            if kind == "suspend":
                await self.standing.suspend(OPERATOR, agent_id(name), "race")
                await self.standing.resume(OPERATOR, agent_id(name), "race over")
            else:
                target = task_id if kind == "task_id" else agent_id(name)
                await self.revoke(OPERATOR, revoke_command(kind, target, ""), any_agent=True)

        async def ask() -> Any:
            answer = await self.engine.ask(task_id, name)
            if answer.token is not None:
                claims = self.engine.introspect(answer.token.value).claims
                assert claims is not None, "a token left that was revoked already"
            return answer

        async def both() -> Any:
            answers = await asyncio.gather(ask(), stop(), return_exceptions=True)
            return answers[0], answers[1]

        answer, stopping = self.run(both())
        assert stopping is None, stopping
        for token in self.tokens:
            token.dead |= token.task_id == task_id if kind == "task_id" else token.agent == name
        if kind == "suspend":
            self.suspended.discard(name)
        if isinstance(answer, BaseException):
            assert isinstance(answer, GrantRevoked), answer
        elif answer.token is not None:
            self.keep(answer.token, name, task_id, raced=True)

    @rule(name=st.sampled_from([*AGENTS, EVERY_AGENT]))
    def an_agent_is_suspended(self, name: str) -> None:
        before = self.engine.core.ledger.size
        self.run(self.standing.suspend(OPERATOR, name if name == EVERY_AGENT else agent_id(name), "stop"))
        assert (self.engine.core.ledger.size == before) == (name in self.suspended)
        self.suspended.add(name)
        for token in self.tokens:
            token.dead |= name in (token.agent, EVERY_AGENT)

    @rule(name=st.sampled_from([*AGENTS, EVERY_AGENT]))
    def an_agent_is_resumed(self, name: str) -> None:
        try:
            self.run(self.standing.resume(OPERATOR, name if name == EVERY_AGENT else agent_id(name), "go on"))
        except AgentNotSuspended:
            assert name not in self.suspended
        self.suspended.discard(name)

    @precondition(lambda self: self.tasks)
    @rule(which=st.integers(0, 3))
    def a_task_is_completed_and_another_begun(self, which: int) -> None:
        task_id, name = self.tasks[which]
        if self.stopped(name):
            return
        self.run(self.engine.complete_task(subject(name), task_id, ""))
        for token in self.tokens:
            token.dead |= token.task_id == task_id
        self.tasks[which] = (self.run(self.engine.task(name, tools=("crm/read_contact",))), name)

    @rule(seconds=st.integers(0, 50))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def the_sidecar_restarts(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    @rule()
    def the_tool_server_restarts(self) -> None:
        self.follower = Follower()

    @invariant()
    def the_feed_says_what_introspection_says(self) -> None:
        self.run(self.follower.catch_up(self.feed, self.clock().timestamp()))
        assert self.follower.sequence == self.engine.core.ledger.revocation_epoch
        for token in self.tokens:
            active = self.engine.introspect(token.value).claims is not None
            reason = self.verdict(token)
            if reason is Reason.EXPIRED:
                assert not active
                continue
            assert active == (reason is None), (token, reason)
            assert reason in (None, Reason.REVOKED)
            if token.dead:
                assert not active, token
            elif not token.raced:
                assert active, token

    def verdict(self, token: Granted) -> Reason | None:
        verifier = TokenVerifier(
            issuer=ISSUER,
            audience=token.audience,
            keys=self.lasting.keyring.public_keys,
            leeway=0,
            revocation=self.follower.revoked.covers,
            now=self.clock,
        )
        presenter = Presenter(x5t_s256=X5T, spiffe_id=agent_id(token.agent))
        try:
            verifier.verify(token.value, presenter=presenter, tool=READ, resource=None, arguments=CONTACT)
        except TokenRejected as rejected:
            return rejected.reason
        return None

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()
        found = verify(self.directory / "l", vkey=SIGNER.vkey)
        assert found.kind == "verified_unanchored", found
        shutil.rmtree(self.directory)


TestRevocation = Revocation.TestCase
TestRevocation.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
