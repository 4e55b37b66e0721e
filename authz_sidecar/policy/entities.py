"""What the bundle knows, as Cedar entities in their JSON form: agents, tools, data classes, and the groups they are in.

Built once per bundle; a request adds the task, the session and the resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from authz_sidecar.policy.catalog import Catalog, Tool
from authz_sidecar.policy.data import DataClassification
from authz_sidecar.policy.manifest import Manifest
from authz_sidecar.strictjson import Json

# Below every level: an agent without manifest may touch nothing, a task with an unknown ceiling neither.
NO_LEVEL = -1


@dataclass(frozen=True, slots=True)
class BundleEntities:
    """Entities by what they describe, each with its groups.

    Attributes:
        agents: SPIFFE ID to the agent's attributes that do not depend on time or state.
        tools: "server/name" to the tool and its groups, ready for a request.
        classes: the data classes.
    """

    agents: Mapping[str, Mapping[str, Json]]
    tools: Mapping[str, tuple[dict[str, Json], ...]]
    classes: tuple[dict[str, Json], ...]


def bundle_entities(catalog: Catalog, data: DataClassification, agents: Mapping[str, Manifest]) -> BundleEntities:
    """The entities of a bundle. Manifests must have been checked against catalog and data."""
    return BundleEntities(
        agents=MappingProxyType({spiffe_id: agent_attributes(m, data) for spiffe_id, m in agents.items()}),
        tools=MappingProxyType({name: _tool(tool) for name, tool in catalog.tools.items()}),
        classes=tuple(entity("DataClass", name, {"level": level}) for name, level in data.classes.items()),
    )


def uid(kind: str, name: str) -> dict[str, Json]:
    """A reference to an entity. Always this form, never Cedar text: ids may hold any character."""
    return {"type": kind, "id": name}


def entity(
    kind: str, name: str, attrs: Mapping[str, Json] | None = None, parents: Iterable[dict[str, Json]] = ()
) -> dict[str, Json]:
    """One entity document."""
    return {"uid": uid(kind, name), "attrs": dict(attrs or {}), "parents": list(parents)}


def agent_attributes(manifest: Manifest | None, data: DataClassification) -> dict[str, Json]:
    """What the manifest says; without one, an agent that may touch nothing anywhere."""
    if manifest is None:
        return {"name": "", "boundary": NO_LEVEL, "environments": [], "tools": [], "manifest_approved": False}
    level = data.level(manifest.boundary)
    return {
        "name": manifest.name,
        "boundary": NO_LEVEL if level is None else level,
        "environments": [*sorted(set(manifest.environments))],
        "tools": [uid("Tool", name) for name in sorted(set(manifest.tools))],
        "manifest_approved": manifest.approved,
    }


def _tool(tool: Tool) -> tuple[dict[str, Json], ...]:
    groups = [uid("ToolGroup", name) for name in tool.groups]
    attrs: dict[str, Json] = {
        "server": tool.server,
        "permission": tool.permission,
        "risks": [*sorted(tool.risks)],
    }
    return entity("Tool", tool.id, attrs, groups), *(entity("ToolGroup", name) for name in tool.groups)
