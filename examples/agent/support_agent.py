"""The agent: pydantic-ai, the CRM's tools, and the enforcement point. Swap the model and it is a real one."""

from __future__ import annotations

from pydantic_ai import Agent
from pydantic_ai.models import Model

from authz_sidecar.client import AsyncTask
from examples.agent.enforcement import Enforcement
from examples.agent.tool_server import ToolServer

INSTRUCTIONS = "You answer questions of customers. Look contacts up in the CRM before you answer."


async def support_agent(model: Model, task: AsyncTask, crm: ToolServer) -> Agent[None, str]:
    """An agent that works on one task with the tools of the CRM."""
    return Agent(
        model,
        instructions=INSTRUCTIONS,
        tools=await crm.tools(),
        capabilities=[Enforcement(task, server="crm")],
    )
