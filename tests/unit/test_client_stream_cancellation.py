"""An answer and the cancellation of its caller may fall into one turn of the event loop: the answer is not lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from authz_sidecar.client.failures import Lost
from authz_sidecar.client.stream import Answer, AuthorizeStream
from authz_sidecar.v1 import authorization_pb2


class ScriptedCall:
    """The client's end of a stream that answers one request and cancels its caller, right before or right after."""

    def __init__(self, *, cancel_first: bool) -> None:
        self._cancel_first = cancel_first
        self._written = asyncio.Event()
        self._reads = 0
        self.caller: asyncio.Task[Answer]

    async def write(self, _message: object) -> None:
        self._written.set()

    async def read(self) -> object:
        self._reads += 1
        if self._reads == 1:
            await self._written.wait()
            if self._cancel_first:
                self.caller.cancel()
            return Answer(request_id="r-1", response=authorization_pb2.AuthorizeResponse(decision_id="d-1"))
        if not self._cancel_first:
            # The reader asks for the next message in the same step in which it handed over the last one.
            self.caller.cancel()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def cancel(self) -> bool:
        return True


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_the_answer_of_a_caller_that_is_cancelled_meanwhile_is_handed_on(cancel_first: bool) -> None:
    unclaimed: list[Answer] = []
    call = ScriptedCall(cancel_first=cancel_first)
    stream = AuthorizeStream(cast(Any, call), on_unclaimed=unclaimed.append)
    call.caller = asyncio.create_task(stream.ask(authorization_pb2.AuthorizeRequest(request_id="r-1")))

    with pytest.raises(asyncio.CancelledError):
        await call.caller
    await stream.close(Lost("UNAVAILABLE", "done"))

    assert [answer.response.decision_id for answer in unclaimed] == ["d-1"]
