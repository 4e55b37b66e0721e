"""The agent's connection to an MCP tool server: mutual TLS with the agent's SVID, one token per call.

The token must not be a parameter that a model could fill in, so it does not pass through the tool's arguments: the
code that holds a grant sets it for the calls made inside a `with` block, in that task only.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic_ai import Tool
from pydantic_ai.exceptions import ToolFailed

from authz_sidecar.client import SvidFiles

_token: ContextVar[str | None] = ContextVar("tool_call_token", default=None)


@contextmanager
def bearing(token: str) -> Iterator[None]:
    """Send `token` with every request to a tool server that is made inside the block."""
    previous = _token.set(token)
    try:
        yield
    finally:
        _token.reset(previous)


class ToolServerFailed(ToolFailed):
    """The tool server refused the call, or the tool failed. The message is the server's."""


class ToolServer:
    """A connected MCP tool server. Made by `connect`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return its text. Raises ToolServerFailed for an error result."""
        result = await self._client.call_tool(tool, dict(arguments))
        text = "\n".join(block.text for block in result.content if block.type == "text")
        if result.is_error:
            raise ToolServerFailed(text)
        return text

    async def tools(self) -> list[Tool[None]]:
        """Every tool of the server as a tool of a pydantic-ai agent, under the same name and schema."""
        listed = await self._client.list_tools()
        return [self._tool(tool.name, tool.description, tool.input_schema) for tool in listed.tools]

    def _tool(self, name: str, description: str | None, schema: dict[str, Any]) -> Tool[None]:
        async def run(**arguments: Any) -> str:
            return await self.call(name, arguments)

        # From the server's schema and without converting: what the model wrote is what is authorized and what is sent.
        return Tool.from_schema(run, name, description, schema)


@asynccontextmanager
async def connect(url: str, *, svid: SvidFiles, server_name: str) -> AsyncIterator[ToolServer]:
    """Connect to the MCP server at `url`.

    Args:
        svid: the agent's X.509-SVID. Tokens are bound to it, so it must be the one shown to the sidecar.
        server_name: the DNS name that the server's certificate must hold, whatever the address in `url` is.
    """
    context = ssl.create_default_context(cafile=svid.bundle)
    context.load_cert_chain(svid.cert, svid.key)
    async with (
        httpx2.AsyncClient(verify=context, auth=_TokenPerRequest(server_name), trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield ToolServer(client)


class _TokenPerRequest(httpx2.Auth):
    def __init__(self, server_name: str) -> None:
        self._server_name = server_name

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.extensions["sni_hostname"] = self._server_name
        if token := _token.get():
            request.headers["Authorization"] = f"Bearer {token}"
        yield request
