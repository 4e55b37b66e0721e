"""The enforcement point of a pydantic-ai agent: every tool call is authorized, runs with its grant, and is reported.

This is all that an agent needs to add: `Agent(..., capabilities=[Enforcement(task, server="crm")])`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from pydantic_ai import RunContext, ToolCallPart, ToolDefinition
from pydantic_ai.capabilities import AbstractCapability, WrapToolExecuteHandler
from pydantic_ai.exceptions import ToolFailed

from authz_sidecar.client import AsyncTask
from examples.agent.tool_server import bearing


class Enforcement(AbstractCapability[None]):
    """Guards every tool of an agent as a tool of `server`, under one task."""

    def __init__(self, task: AsyncTask, *, server: str) -> None:
        self._task = task
        self._server = server

    async def wrap_tool_execute(
        self,
        ctx: RunContext[None],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: WrapToolExecuteHandler,
    ) -> Any:
        async with AsyncExitStack() as call_in_progress:
            guard = self._task.guard(self._server, call.tool_name, args, tool_call_id=call.tool_call_id)
            try:
                grant = await call_in_progress.enter_async_context(guard)
            except Exception as refusal:
                # Denied, approval pending, sidecar down, anything else: the model is told why, the tool does not run.
                raise ToolFailed(f"not allowed: {refusal}") from refusal
            call_in_progress.enter_context(bearing(grant.token))
            return grant.result(await handler(args))
