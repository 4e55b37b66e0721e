"""A model without a network: it makes the tool calls of a script, one per turn, and then says what it was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    tool: str
    arguments: Mapping[str, Any]


def scripted_model(calls: Sequence[ScriptedCall]) -> FunctionModel:
    """A model that asks for `calls` in order, whatever the answers are, and ends with a count of the answers."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        if turn < len(calls):
            call = calls[turn]
            return ModelResponse(parts=[ToolCallPart(call.tool, dict(call.arguments), f"call-{turn + 1}")])
        answers = tool_answers(messages)
        failed = sum(answer.outcome != "success" for answer in answers)
        return ModelResponse(parts=[TextPart(f"{len(answers) - failed} tool calls answered, {failed} refused")])

    return FunctionModel(respond, model_name="scripted")


def tool_answers(messages: Sequence[ModelMessage]) -> list[ToolReturnPart]:
    """What the model was told about its tool calls, oldest first."""
    requests = [message for message in messages if isinstance(message, ModelRequest)]
    return [part for request in requests for part in request.parts if isinstance(part, ToolReturnPart)]
