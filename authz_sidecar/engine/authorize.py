"""The decision cycle: the main job of this project. `docs/DECISION-CYCLE.md` has the same numbers.

1. Identify the caller (done by the server, for every message).
2. Bound and parse the request (`commands.py`).
3. Recall: the same request id with the same content gives the same decision; with other content, an error.
4. Load the facts, at one `now`.
5. Evaluate the policies: permit, deny or approval required.
6. Append the decision record, with the identifiers of the token about to be minted; wait until it is durable.
7. Mint, on a permit only.
8. Answer.

Nothing is said before it is stored: no append, no permit. The signature of 7 is computed while the disk is still
syncing 6, and nothing leaves before both are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter

from authz_sidecar.engine import records
from authz_sidecar.engine.commands import AuthorizeCommand
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.facts import CallFacts, establish
from authz_sidecar.engine.lineage import NO_LINEAGE, lineage, stands
from authz_sidecar.engine.live import LiveTask
from authz_sidecar.engine.recall import Recalled, decision_from_record
from authz_sidecar.engine.revocations import token_identity
from authz_sidecar.errors import (
    DeadlineExceeded,
    GrantExpired,
    GrantRevoked,
    InvalidRequest,
    RequestIdReused,
    SidecarError,
    TaskNotActive,
)
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import Record
from authz_sidecar.ledger.store import Position, StoredEntry
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.verdict import Deny, Permit, Verdict
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import Task, TaskState
from authz_sidecar.token.mint import MintedToken


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizeAnswer:
    """Step 8. `token` is present exactly when the verdict is a permit."""

    request_id: str
    decision_id: str
    verdict: Verdict
    token: MintedToken | None
    policy_digest: str
    revocation_epoch: int
    position: Position
    resource: str | None
    recalled: bool


@dataclass(slots=True)
class _Pending:
    """A decision whose record is on its way to the disk."""

    content_sha256: str
    body: Mapping[str, Json]
    appended: asyncio.Future[Position]


class Authorize:
    """Decides about one tool call. One instance serves all calls of the process, on the event loop's thread."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending: dict[tuple[str, str, str], _Pending] = {}

    async def __call__(self, subject: Subject, command: AuthorizeCommand) -> AuthorizeAnswer:
        """Run steps 3 to 8.

        Raises:
            InvalidRequest: a JWT-SVID caller gave no key to bind the token to.
            RequestIdReused, GrantExpired: see step 3.
            BehindCaller: the caller knows of a newer policy or revocation.
            NotReady, ClockBehind, LedgerUnavailable, Overloaded, DeadlineExceeded: no answer is possible now.
        """
        core = self._core
        confirmation = _confirmation(subject, command)
        now = core.moment()
        core.require_current(min_policy_digest=command.min_policy_digest, at_least_epoch=command.at_least_epoch)

        # 3. Recall
        live = core.tasks.owned(command.task_id, str(subject.spiffe_id))
        recalled = await self._recall(subject, command, live, now)
        if recalled is not None:
            return recalled

        # 4. Load facts
        started = perf_counter()
        pdp = core.policy()
        facts = establish(
            options=core.options,
            bundle=pdp.bundle,
            subject=subject,
            command=command,
            live=live,
            suspended=self._suspended(subject, live),
            above=lineage(core.tasks, live.task, now) if live is not None else NO_LINEAGE,
            now=now,
        )
        core.metrics.observe_step("facts", started)

        # 5. Evaluate
        started = perf_counter()
        verdict, evaluated, token = self._evaluate(pdp, facts, subject, confirmation, now)
        core.metrics.observe_step("evaluate", started)

        # 6. Append
        started = perf_counter()
        record = records.decision(
            decision_id=core.new_id(),
            now=now,
            subject=subject,
            command=command,
            facts=facts,
            environment=core.options.environment,
            production=core.options.production,
            pdp=pdp,
            verdict=verdict,
            token=token,
            evaluated=evaluated,
            revocation_epoch=core.revocations.epoch,
        )
        if isinstance(verdict, Permit) and live is not None and facts.tool is not None:
            live.session = live.session.after_permit(
                tool=command.tool, permission=facts.tool.permission, level=facts.level
            )
        pending = self._append(subject, command, live, record)
        core.metrics.observe_step("append", started)

        # 7. Mint. The writer gets its turn first, so that the signature is computed while the disk syncs.
        minted: MintedToken | None = None
        if isinstance(verdict, Permit):
            await asyncio.sleep(0)
            started = perf_counter()
            minted = core.minter.mint(record.body)
            core.metrics.observe_step("mint", started)

        # 8. Answer
        started = perf_counter()
        position = await self._durable(subject, command, pending, facts.task, live, permitted=minted is not None)
        core.metrics.observe_step("durable", started)
        core.metrics.count_decision(records.OUTCOMES[type(verdict)], verdict.reason_code)
        return AuthorizeAnswer(
            request_id=command.request_id,
            decision_id=str(record.body["id"]),
            verdict=verdict,
            token=minted,
            policy_digest=pdp.digest,
            revocation_epoch=core.ledger.revocation_epoch,
            position=position,
            resource=facts.resource.id if facts.resource else None,
            recalled=False,
        )

    def _suspended(self, subject: Subject, live: LiveTask | None) -> bool:
        """Whether an operator stopped the agent, or one that the task's authority comes from."""
        above = (hop.agent for hop in live.task.delegation) if live is not None else ()
        return any(map(self._core.revocations.suspended, (str(subject.spiffe_id), *above)))

    def _evaluate(
        self, pdp: Pdp, facts: CallFacts, subject: Subject, confirmation: dict[str, Json], now: datetime
    ) -> tuple[Verdict, Json, dict[str, Json] | None]:
        """The verdict, the query as evaluated, and the token's fields on a permit."""
        if facts.query is None:
            return facts.missing, None, None
        verdict = pdp.evaluate(facts.query)
        evaluated = facts.query.to_json()
        if not isinstance(verdict, Permit):
            return verdict, evaluated, None
        token = self._core.minter.plan(
            now=now,
            not_after=min(facts.deadline, subject.not_after),
            audience=facts.audience,
            cnf=confirmation,
        )
        if token is None:
            return Deny(reason_code="lifetime_exhausted", determining=verdict.determining), evaluated, None
        return verdict, evaluated, token

    def _append(self, subject: Subject, command: AuthorizeCommand, live: LiveTask | None, record: Record) -> _Pending:
        """Hand the record to the ledger and remember the request while it is not durable."""
        key = _key(subject, command)
        try:
            appended = self._core.ledger.append(record)
        except SidecarError:
            if live is not None:
                self._core.tasks.doubt(live)
            raise
        pending = _Pending(command.content_sha256, record.body, appended)
        self._pending[key] = pending
        appended.add_done_callback(lambda _: self._pending.pop(key, None))
        if live is not None:
            live.decisions[command.request_id] = str(record.body["id"])
            self._core.tasks.follow(live, appended)
        return pending

    async def _durable(
        self,
        subject: Subject,
        command: AuthorizeCommand,
        pending: _Pending,
        decided: Task | None,
        live: LiveTask | None,
        *,
        permitted: bool,
    ) -> Position:
        """Step 6's wait. A permit that came too late, or whose task ended meanwhile, is voided: no token leaves.

        `decided` is the task as it was decided about. One that was suspended and resumed since is in another epoch.
        """
        try:
            position = await self._core.wait_durable(pending.appended)
        except DeadlineExceeded:
            if permitted:
                self._void(subject, command, pending, "append_deadline")
            raise
        if permitted and live is not None and decided is not None and not self._still(decided, live.task):
            self._void(subject, command, pending, "task_ended")
            raise TaskNotActive(f"task `{command.task_id}` ended while the decision was being recorded")
        if permitted and self._revoked_since(pending.body):
            self._void(subject, command, pending, "revoked")
            raise GrantRevoked("the permit was revoked while it was being recorded; no token was released")
        return position

    def _revoked_since(self, body: Mapping[str, Json]) -> bool:
        """Whether a revocation that came after the decision covers its token."""
        revocations = self._core.revocations
        if revocations.epoch == body["revocation_epoch"]:
            return False
        return revocations.covers(token_identity(body, issuer=self._core.minter.issuer))

    def _still(self, decided: Task, task: Task) -> bool:
        """Whether nothing that ends tokens happened to the task, or above it, since it was decided about."""
        if task.state is not TaskState.ACTIVE or task.epoch != decided.epoch:
            return False
        return not task.delegation or stands(self._core.tasks, task, self._core.record_time())

    def _void(self, subject: Subject, command: AuthorizeCommand, pending: _Pending, reason: str) -> None:
        """The caller of this permit is told that there is no answer: say in the ledger that no token left."""
        self._core.voids.add(
            pending.appended,
            subject=subject,
            task_id=command.task_id,
            decision_id=str(pending.body["id"]),
            reason=reason,
        )

    async def _recall(
        self, subject: Subject, command: AuthorizeCommand, live: LiveTask | None, now: datetime
    ) -> AuthorizeAnswer | None:
        """Step 3. None when the request id is new."""
        pending = self._pending.get(_key(subject, command))
        if pending is not None:
            _same_content(pending.content_sha256, command)
            recalled = decision_from_record(pending.body)
            if recalled.decision_id in self._core.voids:
                raise GrantExpired("the permit was voided before it was recorded; use a new request id")
            position = await self._core.wait_durable(pending.appended)
        else:
            stored = self._stored(subject, command, live)
            if stored is None:
                return None
            recalled = decision_from_record(stored.record)
            _same_content(recalled.content_sha256, command)
            position = Position(self._core.ledger.origin, stored.index, stored.leaf_hash)
        return AuthorizeAnswer(
            request_id=command.request_id,
            decision_id=recalled.decision_id,
            verdict=recalled.verdict,
            token=self._mint_again(recalled, subject, command, now) if recalled.token is not None else None,
            policy_digest=recalled.policy_digest,
            revocation_epoch=self._core.ledger.revocation_epoch,
            position=position,
            resource=recalled.resource,
            recalled=True,
        )

    def _stored(self, subject: Subject, command: AuthorizeCommand, live: LiveTask | None) -> StoredEntry | None:
        """The earlier decision under this request id, when there is one."""
        ledger = self._core.ledger
        if live is not None:
            decision_id = live.decisions.get(command.request_id)
            return ledger.decision(decision_id) if decision_id is not None else None
        # No such task for this agent: there is no list of its requests, so only the very same question is recognised.
        stored = ledger.find_request(str(subject.spiffe_id), "decision", command.request_id)
        same = stored is not None and decision_from_record(stored.record).content_sha256 == command.content_sha256
        return stored if same else None

    def _mint_again(
        self, recalled: Recalled, subject: Subject, command: AuthorizeCommand, now: datetime
    ) -> MintedToken:
        """The recorded permit determines its token; it is signed again only while it would still be accepted."""
        core = self._core
        live = core.tasks.owned(command.task_id, str(subject.spiffe_id))
        still = (
            live is not None
            and stands(core.tasks, live.task, now)
            and live.task.epoch == recalled.task_epoch
            and recalled.token is not None
            and recalled.token["cnf"] == _confirmation(subject, command)
            and recalled.expires_at is not None
            and now + timedelta(seconds=1) <= recalled.expires_at
            and recalled.decision_id not in core.voids
            and not core.revocations.covers(token_identity(recalled.body, issuer=core.minter.issuer))
        )
        if not still:
            raise GrantExpired(
                "the recorded permit is no longer valid (expired, revoked, voided, task ended, or SVID rotated);"
                " use a new request id"
            )
        return core.minter.mint(recalled.body)


def _confirmation(subject: Subject, command: AuthorizeCommand) -> dict[str, Json]:
    """What the token is bound to (RFC 7800 `cnf`): a key that the agent names, otherwise its certificate."""
    if command.proof_key_thumbprint is not None:
        return {"jkt": command.proof_key_thumbprint}
    if subject.x5t_s256 is None:
        raise InvalidRequest.of(
            "proof_key_thumbprint",
            "required for callers that authenticate by JWT-SVID, which has no certificate to bind the token to",
        )
    return {"x5t#S256": subject.x5t_s256}


def _key(subject: Subject, command: AuthorizeCommand) -> tuple[str, str, str]:
    return (str(subject.spiffe_id), command.task_id, command.request_id)


def _same_content(content_sha256: str, command: AuthorizeCommand) -> None:
    if content_sha256 != command.content_sha256:
        raise RequestIdReused(f"request id `{command.request_id}` was used with other content; use a new one")
