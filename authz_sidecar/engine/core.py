"""What every use case stands on: one ledger, one active policy, one minter, one clock, and the live tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from authz_sidecar.engine.live import LiveTasks
from authz_sidecar.engine.open_tasks import OpenTasks
from authz_sidecar.engine.options import EngineOptions
from authz_sidecar.engine.revocations import Revocations
from authz_sidecar.engine.turns import Turns
from authz_sidecar.engine.voids import Voids
from authz_sidecar.errors import BehindCaller, ClockBehind, DeadlineExceeded
from authz_sidecar.ledger.records import Record
from authz_sidecar.ledger.store import Ledger, Position
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.telemetry.metrics import Metrics
from authz_sidecar.token.mint import Minter


class Core:
    """Shared parts of the use cases. Built once by the composition root."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        policy: Callable[[], Pdp],
        minter: Minter,
        options: EngineOptions,
        metrics: Metrics,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        """
        Args:
            policy: returns the active policy decision point, or raises NotReady.
            now: the wall clock, aware UTC.
            new_id: a fresh, unguessable, URL-safe identifier.
        """
        self.ledger = ledger
        self.policy = policy
        self.minter = minter
        self.options = options
        self.metrics = metrics
        self.new_id = new_id
        self.tasks = LiveTasks(ledger)
        self.revocations = Revocations(ledger, now)
        self.turns = Turns(options.append_deadline)
        self.open = OpenTasks(ledger.open_tasks())
        self.voids = Voids(ledger, new_id=new_id, record_time=self.record_time)
        self._now = now

    def moment(self) -> datetime:
        """The one `now` of a request: the wall clock, never behind the newest record.

        Raises ClockBehind when the wall clock is behind the newest record by more than the tolerance: expiries computed
        from it would be wrong, and an entry would claim to be older than one before it.
        """
        now = self._now()
        newest = self.ledger.last_time
        if newest is not None and newest - now > self.options.clock_tolerance:
            raise ClockBehind(
                f"the clock is {(newest - now).total_seconds():.0f} s behind the newest ledger entry; correct the clock"
            )
        return now if newest is None else max(now, newest)

    def record_time(self) -> datetime:
        """The wall clock, never behind the newest record, whatever the wall clock says."""
        now = self._now()
        return max(now, self.ledger.last_time or now)

    def require_current(self, *, min_policy_digest: str | None, at_least_epoch: int) -> None:
        """Refuse to answer a caller that knows of a newer policy or revocation. Raises BehindCaller."""
        if min_policy_digest and not self.ledger.known_policy(min_policy_digest):
            raise BehindCaller(
                f"this sidecar never activated policy `{min_policy_digest}`; wait for the rollout and ask again"
            )
        if self.ledger.revocation_epoch < at_least_epoch:
            raise BehindCaller(
                f"this sidecar is at revocation epoch {self.ledger.revocation_epoch}, the caller knows {at_least_epoch}"
            )

    async def store(self, record: Record) -> Position:
        """Append and wait until the record is durable. Raises what `Ledger.append` and `wait_durable` raise."""
        return await self.wait_durable(self.ledger.append(record))

    async def wait_durable(self, appended: asyncio.Future[Position]) -> Position:
        """Wait for an append, at most the operator's deadline. The append itself goes on when the wait ends early.

        Raises LedgerUnavailable, DeadlineExceeded.
        """
        await self.wait_settled(appended)
        return appended.result()

    async def wait_settled(self, appended: asyncio.Future[Position]) -> None:
        """Like `wait_durable`, for somebody else's append: whether it was stored is not looked at."""
        timeout = self.options.append_deadline.total_seconds()
        done, _ = await asyncio.wait((appended,), timeout=timeout)
        if not done:
            raise DeadlineExceeded(f"the record was not durable within {timeout:g} s; nothing was granted")
