"""The CRM's tools as an MCP server. The tools know nothing about authorization: the middleware does."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from authz_sidecar.verifier import TokenVerifier
from examples.crm.contacts import Contacts, NoSuchContact
from examples.crm.token_check import Arguments, TokenCheck

ContactId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]


def crm_server(contacts: Contacts, verifier: TokenVerifier) -> MCPServer[None]:
    """The server; `server.streamable_http_app()` is its ASGI application."""
    check = TokenCheck(server="crm", verifier=verifier, resource_of=resource_of)
    server: MCPServer[None] = MCPServer("crm", middleware=[check], log_level="WARNING")

    @server.tool(structured_output=False)
    def read_contact(contact_id: ContactId) -> str:
        """Read one contact."""
        try:
            return json.dumps(contacts.read(contact_id))
        except NoSuchContact as error:
            raise ToolError(str(error)) from None

    @server.tool(structured_output=False)
    def search_contacts(
        query: Annotated[str, Field(min_length=1, max_length=200)], limit: Annotated[int, Field(ge=1, le=100)] = 10
    ) -> str:
        """Find contacts by name; answers with names and ids only."""
        return json.dumps(contacts.search(query, limit))

    @server.tool(structured_output=False)
    def update_contact(
        contact_id: ContactId,
        email: str | None = None,
        phone: str | None = None,
        discount_percent: Annotated[float | None, Field(ge=0, le=100)] = None,
        tags: list[str] | None = None,
    ) -> str:
        """Change fields of one contact; what is left out or null stays as it is."""
        given = {"email": email, "phone": phone, "discount_percent": discount_percent, "tags": tags}
        changes = {name: value for name, value in given.items() if value is not None}
        try:
            return json.dumps(contacts.update(contact_id, changes))
        except NoSuchContact as error:
            raise ToolError(str(error)) from None

    @server.tool(structured_output=False)
    def delete_contact(contact_id: ContactId, reason: Annotated[str, Field(min_length=1, max_length=400)]) -> str:
        """Delete one contact for good."""
        try:
            contacts.delete(contact_id)
        except NoSuchContact as error:
            raise ToolError(str(error)) from None
        return f"deleted {contact_id}: {reason}"

    @server.tool(structured_output=False)
    def export_contacts(format: Literal["csv", "json"]) -> str:
        """Write all contacts to a file for download."""
        return contacts.export_csv() if format == "csv" else contacts.export_json()

    return server


def resource_of(tool: str, arguments: Arguments) -> str | None:
    """The resource that a call touches. The sidecar's catalog derives the same id from the same arguments."""
    match tool:
        case "read_contact" | "update_contact" | "delete_contact":
            return f"crm:contact/{arguments.get('contact_id')}"
        case "search_contacts":
            return "crm:contacts"
        case "export_contacts":
            return "crm:export/contacts"
        case _:
            return None
