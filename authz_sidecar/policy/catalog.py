"""The tool catalog: what the operator says about every tool. The agent's word counts for none of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, JsonValue

from authz_sidecar.documents import DocumentError, DocumentModel, KeyPath, Problem, load_document, nearest
from authz_sidecar.policy.data import Name, Pattern
from authz_sidecar.policy.input_schema import ArgumentsInvalid, InputSchema, Scalar, compile_input
from authz_sidecar.policy.pattern import check_resource_id
from authz_sidecar.policy.resource import (
    Declared,
    DerivedResource,
    Fixed,
    MalformedTemplate,
    ResourceMismatch,
    ResourceRule,
    ResourceUnderivable,
    Template,
    derive,
)
from authz_sidecar.strictjson import Json

__all__ = [
    "ArgumentsInvalid",
    "Catalog",
    "DerivedResource",
    "ResourceMismatch",
    "ResourceUnderivable",
    "Tool",
    "check_arguments",
    "derive_resource",
    "load_catalog",
]

Permission: TypeAlias = Literal["read", "write", "execute"]
Risk: TypeAlias = Literal["credential_export", "external_posting", "environment_change"]

_TOOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_AUDIENCE = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool.

    Attributes:
        server: name of the tool server.
        name: name of the tool on its server.
        permission: what a call does.
        risks: why a call may need a human.
        audience: `aud` of the tokens for its server.
        groups: tool groups that policies may name.
        arguments: `full` when the agent sends them, `digest` when they stay with the agent.
        input: what the arguments look like; None only for `digest`.
        resource: how the resource follows.
    """

    server: str
    name: str
    permission: Permission
    risks: frozenset[Risk]
    audience: str
    groups: tuple[str, ...]
    arguments: Literal["full", "digest"]
    input: InputSchema | None
    resource: ResourceRule

    @property
    def id(self) -> str:
        return f"{self.server}/{self.name}"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All tools by "server/name", sorted."""

    tools: Mapping[str, Tool]

    @property
    def audiences(self) -> frozenset[str]:
        return frozenset(tool.audience for tool in self.tools.values())


def check_arguments(tool: Tool, arguments: Mapping[str, Json] | None) -> None:
    """Raises ArgumentsInvalid. Without arguments only a `digest` tool passes, and nothing about them is checked."""
    if arguments is None:
        if tool.arguments == "full":
            raise ArgumentsInvalid("the arguments are required; a digest is not enough for this tool")
        return
    if tool.input is not None:
        tool.input.check(arguments)


def derive_resource(tool: Tool, arguments: Mapping[str, Json] | None, declared: str | None) -> DerivedResource:
    """The resource of a call. Raises ResourceUnderivable or ResourceMismatch, see `resource.derive`.

    Safe on arguments that `check_arguments` has not seen, but says nothing about them.
    """
    return derive(tool.resource, arguments, declared)


def _tool_name(text: str) -> str:
    if not _TOOL_NAME.fullmatch(text):
        raise ValueError("expected a name of 1 to 128 letters, digits, `_`, `.` and `-`")
    return text


def _audience(text: str) -> str:
    if not _AUDIENCE.fullmatch(text):
        raise ValueError("expected 1 to 256 printable ASCII characters without blanks")
    return text


ToolName = Annotated[str, AfterValidator(_tool_name)]


class _ResourceLines(DocumentModel):
    template: str | None = None
    fixed: Annotated[str, AfterValidator(check_resource_id)] | None = None
    declared: list[Pattern] | None = Field(default=None, min_length=1)


class _ToolLines(DocumentModel):
    name: ToolName
    description: str = ""
    permission: Permission
    risks: list[Risk] = Field(default_factory=list)
    groups: list[Name] = Field(default_factory=list)
    arguments: Literal["full", "digest"] = "full"
    resource: _ResourceLines
    input: JsonValue = None


class _ServerLines(DocumentModel):
    name: ToolName
    audience: Annotated[str, AfterValidator(_audience)]
    tools: list[_ToolLines] = Field(min_length=1)


class _CatalogFile(DocumentModel):
    version: Literal[1]
    servers: list[_ServerLines]


def load_catalog(label: str, raw: bytes) -> Catalog:
    """Parse `catalog/tools.yaml`. Raises DocumentError; problems of a tool name the tool."""
    loaded = load_document(label, raw, _CatalogFile)
    document = loaded.document
    problems: list[Problem] = []
    tools: dict[str, Tool] = {}
    servers: set[str] = set()
    for s, server in enumerate(loaded.model.servers):
        if server.name in servers:
            problems.append(document.problem(("servers", s, "name"), f"server `{server.name}` is listed twice"))
        servers.add(server.name)
        for t, lines in enumerate(server.tools):
            at: KeyPath = ("servers", s, "tools", t)
            name = f"{server.name}/{lines.name}"
            found = list(_tool_problems(lines))
            if name in tools:
                found.append((("name",), "listed twice"))
            problems += [document.problem((*at, *path), f"tool `{name}`: {message}") for path, message in found]
            if not found:
                tools[name] = _tool(server, lines)
    if problems:
        raise DocumentError(problems)
    return Catalog(MappingProxyType(dict(sorted(tools.items()))))


def _tool(server: _ServerLines, lines: _ToolLines) -> Tool:
    compiled = None if lines.input is None else compile_input(lines.input)
    return Tool(
        server=server.name,
        name=lines.name,
        permission=lines.permission,
        risks=frozenset(lines.risks),
        audience=server.audience,
        groups=tuple(sorted(set(lines.groups))),
        arguments=lines.arguments,
        input=compiled if isinstance(compiled, InputSchema) else None,
        resource=_rule(lines.resource),
    )


def _rule(lines: _ResourceLines) -> ResourceRule:
    if lines.template is not None:
        return Template.parse(lines.template)
    if lines.fixed is not None:
        return Fixed(lines.fixed)
    return Declared(tuple(lines.declared or ()))


def _tool_problems(lines: _ToolLines) -> Iterator[tuple[KeyPath, str]]:
    """What the model cannot see: the input against the subset, the resource rule against the input."""
    compiled = None if lines.input is None else compile_input(lines.input)
    if compiled is None and lines.arguments == "full":
        yield ("input",), "`input` is required; write `arguments: digest` for arguments that stay with the agent"
    if isinstance(compiled, list):
        for path, message in compiled:
            yield ("input", *path), message
    rules = [rule for rule in (lines.resource.template, lines.resource.fixed, lines.resource.declared) if rule]
    if len(rules) != 1:
        yield ("resource",), "expected exactly one of `template`, `fixed`, `declared`"
    elif lines.resource.template is not None:
        input_schema = compiled if isinstance(compiled, InputSchema) else None
        for message in _template_problems(lines, input_schema):
            yield ("resource", "template"), message


def _template_problems(lines: _ToolLines, input_schema: InputSchema | None) -> Iterator[str]:
    try:
        template = Template.parse(lines.resource.template or "")
    except MalformedTemplate as error:
        yield str(error)
        return
    if lines.arguments == "digest":
        yield "a template needs the arguments, and this tool sends only their digest; use `fixed` or `declared`"
    if input_schema is None:
        return
    members = input_schema.type.properties
    for name in template.names:
        member = members.get(name)
        if member is None:
            yield f"argument `{name}` is not in the input{nearest(name, sorted(members))}"
        elif not isinstance(member, Scalar) or member.kind not in ("string", "integer"):
            yield f"argument `{name}` must be a string or an integer"
        elif not input_schema.type.always_present(name):
            yield f"argument `{name}` must be in `required` and never null, or the resource could be missing"
