"""The generated part of the Cedar schema: one action per tool, its groups, and the type of its input.

Pure text out of the catalog. Every name in it comes from an alphabet that needs no escaping in Cedar.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from authz_sidecar.policy.catalog import Tool
from authz_sidecar.policy.input_schema import Array, InputType, Object

CALL_TOOL = "call_tool"
HIGH_RISK = "high_risk"
START_TASK = "start_task"
DELEGATE_TASK = "delegate_task"
PERMISSIONS = ("read", "write", "execute")
RISKS = ("credential_export", "external_posting", "environment_change")

# INVARIANT: request.py fills exactly these, in this order, and `input` where the tool sends its arguments.
_CONTEXT = (
    ("now", "datetime"),
    ("task", "Task"),
    ("tool", "Tool"),
    ("environment", "Environment"),
    ("session", "Session"),
    ("calls", "CallCounts"),
    ("identity_method", "String"),
    ("resource_in_scope", "Bool"),
    ("declared_resource", "Bool"),
    ("delegation", "Delegation"),
    ("missing", "Set<String>"),
)
# Context members that refer to an entity, which must be in the store of the same question.
REFERENCES = ("task", "parent", "tool", "environment", "session")
_SCALARS = {"string": "String", "integer": "Long", "boolean": "Bool", "number": "decimal"}


def action_groups(tool: Tool) -> list[str]:
    """The action groups that hold the tool's action."""
    return [CALL_TOOL, f"{tool.server}/*", tool.permission, *sorted(tool.risks)]


def generated_schema(tools: Collection[Tool]) -> str:
    """Cedar schema text to put behind the operator's part: the action groups, and the actions of these tools."""
    return "\n".join(_lines(tools)) + "\n"


def _lines(tools: Collection[Tool]) -> Iterator[str]:
    yield f'action "{CALL_TOOL}", "{HIGH_RISK}";'
    yield "action " + ", ".join(f'"{name}"' for name in PERMISSIONS) + ";"
    yield "action " + ", ".join(f'"{name}"' for name in RISKS) + f' in ["{HIGH_RISK}"];'
    for server in sorted({tool.server for tool in tools}):
        yield f'action "{server}/*";'
    for tool in tools:
        groups = ", ".join(f'"{name}"' for name in action_groups(tool))
        yield f'action "{tool.id}" in [{groups}] appliesTo {{'
        yield "  principal: Agent, resource: Resource, context: {"
        for name, kind in _CONTEXT:
            yield f"    {name}: {kind},"
        if tool.arguments == "full" and tool.input is not None:
            yield f"    input: {cedar_type(tool.input.type)},"
        yield "  }"
        yield "};"


def cedar_type(kind: InputType) -> str:
    """The Cedar type of an input. Arrays become sets, numbers decimals; what may be null or absent is optional."""
    if isinstance(kind, Array):
        return f"Set<{cedar_type(kind.items)}>"
    if isinstance(kind, Object):
        members = (
            f'"{name}"{"" if kind.always_present(name) else "?"}: {cedar_type(member)}'
            for name, member in sorted(kind.properties.items())
        )
        return "{" + ", ".join(members) + "}"
    return _SCALARS[kind.kind]
