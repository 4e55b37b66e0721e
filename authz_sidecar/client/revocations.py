"""The revocation feed for tool servers: which tokens are dead, known here, milliseconds after the sidecar knows.

    feed = RevocationFeed("unix:/run/authz/authz.sock", svid=SvidFiles(cert=..., key=..., bundle=...))
    verifier = TokenVerifier(..., revocation=feed, introspect_when_stale=introspection)

A feed that has heard nothing for `stale_after` says that it does not know; the verifier then asks, or refuses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import grpc

from authz_sidecar.client.credentials import BearerJwtSvid, ChannelSource, CredentialUnusable, MutualTls, SvidFiles
from authz_sidecar.client.failures import from_status
from authz_sidecar.revoked import Kind, Revocable, Revocation, RevokedSet
from authz_sidecar.v1 import token_pb2, token_pb2_grpc

_LOG = logging.getLogger("authz_sidecar.client")
_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 1.0
_KINDS: dict[str, Kind] = {"jti": "jti", "task_id": "task_id", "agent": "agent", "kid": "kid"}

Message = token_pb2.WatchRevocationsResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """Where a feed stands.

    Attributes:
        sequence: number of the newest revocation it knows of; None before the first snapshot.
        entries: revocations that still matter.
        silence_s: seconds since it was last told that it knows everything; infinite before the first time.
        stale: whether it does not know what is revoked now.
    """

    sequence: int | None
    entries: int
    silence_s: float
    stale: bool


class _OutOfStep(Exception):
    """Something was missed: start over with a snapshot."""


class RevocationFeed:
    """Follows one sidecar in a thread of its own, and reconnects by itself. Safe to ask from any thread.

    Not usable in a forked child: it says there that it does not know. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        target: str,
        *,
        svid: SvidFiles | None = None,
        jwt_svid: Callable[[], str] | os.PathLike[str] | None = None,
        server_name: str = "authz-sidecar",
        stale_after: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            target: the sidecar in gRPC syntax, `unix:/path` or `host:port`.
            svid: the tool server's X.509-SVID; the sidecar must know it as a resource server. Read again at every
                connection.
            jwt_svid: a JWT-SVID instead, over a Unix socket.
            server_name: the DNS name in the sidecar's certificate.
            stale_after: seconds without a sign of life after which the feed does not know what is revoked, 0.5 to 60.
            monotonic, now: clocks, in seconds; `now` is Unix time.

        Raises ValueError for arguments that do not go together. A sidecar that cannot be reached is no error: the feed
        is stale until it can be.
        """
        if (svid is None) == (jwt_svid is None):
            raise ValueError("give `svid` or `jwt_svid`, and not both")
        if not 0.5 <= stale_after <= 60:
            raise ValueError(f"`stale_after`: expected 0.5 to 60 seconds, got {stale_after:g}")
        self._source: ChannelSource
        if svid is not None:
            self._source = MutualTls(target, svid, server_name)
        else:
            self._source = BearerJwtSvid(target, cast("Callable[[], str] | os.PathLike[str]", jwt_svid))
        self._stale_after = stale_after
        self._monotonic = monotonic
        self._now = now
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._revoked = RevokedSet()
        self._parts: list[Revocation] = []
        self._sequence: int | None = None
        self._caught_up = False
        self._heard = float("-inf")
        self._fresh = threading.Event()
        self._said = ""
        self._loop = asyncio.new_event_loop()
        self._following: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="authz-sidecar-revocations", daemon=True)
        self._thread.start()

    def __call__(self, token: Revocable) -> bool | None:
        """Whether a token is revoked: True, False, or None when that is not known at present.

        What is known to be revoked is revoked, however stale the feed is.
        """
        with self._lock:
            if self._revoked.covers(token):
                return True
            return None if self._silence() > self._stale_after else False

    @property
    def state(self) -> FeedState:
        """Where the feed stands, for health checks and metrics."""
        with self._lock:
            silence = self._silence()
            return FeedState(
                sequence=self._sequence,
                entries=len(self._revoked),
                silence_s=silence,
                stale=silence > self._stale_after,
            )

    def wait_until_fresh(self, timeout_s: float) -> bool:
        """Wait for the first complete knowledge, at most so long. False when it did not come."""
        return self._fresh.wait(timeout_s)

    def close(self) -> None:
        """Stop following. From then on the feed does not know. Safe to call again."""
        with self._lock:
            closed, self._closed = self._closed, True
            self._heard = float("-inf")
        if closed or os.getpid() != self._pid:
            return
        self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _silence(self) -> float:
        """Seconds since the feed knew everything. A forked child has no thread that could know anything."""
        return self._monotonic() - self._heard if os.getpid() == self._pid else float("inf")

    def _cancel(self) -> None:
        if self._following is not None:
            self._following.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._following = self._loop.create_task(self._follow())
            self._loop.run_until_complete(asyncio.wait((self._following,)))
        finally:
            self._loop.close()

    async def _follow(self) -> None:
        delay = _FIRST_DELAY_S
        while not self._closed:
            heard = self._heard
            try:
                await self._watch()
                self._say("the sidecar ended the feed")
            except _OutOfStep as error:
                with self._lock:
                    # What is known stays known; that it is everything does not.
                    self._sequence = None
                    self._heard = float("-inf")
                self._say(str(error))
            except CredentialUnusable as error:
                self._say(str(error))
            except grpc.aio.AioRpcError as error:
                failure = from_status(error)
                self._say(f"{failure.message} ({failure.reason})")
            except TimeoutError:
                self._say(f"no sign of life for {self._stale_after:g} s")
            delay = _FIRST_DELAY_S if self._heard > heard else min(2 * delay, _LONGEST_DELAY_S)
            await asyncio.sleep(delay)

    async def _watch(self) -> None:
        """Follow over one connection, to its end."""
        opened = self._source.open_unless(None)
        if opened is None:
            raise AssertionError("a credential that was never opened cannot be unchanged")
        async with opened.channel:
            stub = cast("token_pb2_grpc.TokenServiceAsyncStub", token_pb2_grpc.TokenServiceStub(opened.channel))
            self._caught_up = False
            self._parts = []
            request = token_pb2.WatchRevocationsRequest(after_sequence=self._sequence or 0)
            call = stub.WatchRevocations(request, metadata=opened.metadata)
            while isinstance(
                message := await asyncio.wait_for(call.read(), self._stale_after), token_pb2.WatchRevocationsResponse
            ):
                self._take(message)

    def _take(self, message: Message) -> None:
        """Raises _OutOfStep."""
        with self._lock:
            match message.WhichOneof("event"):
                case "snapshot":
                    self._snapshot(message)
                case "revocation":
                    self._expect(message.sequence - 1)
                    self._revoked.add(_revocation(message.revocation, message.sequence))
                    self._sequence = message.sequence
                case "heartbeat":
                    self._expect(message.sequence)
                    self._caught_up = True
                case _:
                    raise _OutOfStep("the sidecar sent something that is not a message of the feed")
            if self._caught_up and not self._closed:
                self._heard = self._monotonic()
                self._revoked.forget_expired(self._now())
        if self._caught_up:
            self._said = ""
            self._fresh.set()

    def _snapshot(self, message: Message) -> None:
        self._parts += [_revocation(one, one.sequence) for one in message.snapshot.revocations]
        if message.snapshot.more:
            return
        self._revoked = RevokedSet(self._parts)
        self._parts = []
        self._sequence = message.sequence
        self._caught_up = True

    def _expect(self, sequence: int) -> None:
        if self._sequence != sequence:
            raise _OutOfStep(f"the feed is at {sequence}, known here is {self._sequence}: starting over")

    def _say(self, problem: str) -> None:
        """Log what keeps the feed from following, once for each problem."""
        if problem != self._said:
            self._said = problem
            _LOG.warning("revocation feed: %s", problem)


def _revocation(told: token_pb2.Revocation, sequence: int) -> Revocation:
    """Raises _OutOfStep for a kind of target that is not known here: it cannot be told what it covers."""
    kind = _KINDS.get(told.WhichOneof("target") or "")
    if kind is None:
        raise _OutOfStep("the sidecar revoked something of an unknown kind; update the client")
    end = told.expires_at
    return Revocation(
        sequence=sequence,
        kind=kind,
        target=str(getattr(told, kind)),
        expires_at=end.seconds + end.nanos / 1e9 if told.HasField("expires_at") else None,
        task_epoch=told.task_epoch,
    )
