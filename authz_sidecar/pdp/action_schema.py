"""A schema handle per action, with that tool's action alone.

An entity store built with a schema holds every action of the schema, and adding a request's entities copies the store.
With one schema for all tools, each decision would pay for the size of the catalog.
INVARIANT: entity types and action groups are the same in all of them, so an answer is the one of the whole schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cedarpy import Entities, Schema

from authz_sidecar.pdp.schema import generated_schema
from authz_sidecar.policy.bundle import Bundle
from authz_sidecar.policy.catalog import Tool

# Making one takes about a millisecond: a large catalog must not delay readiness.
_MADE_AT_LOAD = 64


@dataclass(frozen=True, slots=True)
class ActionSchema:
    """The schema for one action, and the entity store that holds nothing but its actions."""

    schema: Schema
    actions_only: Entities


@dataclass(slots=True)
class ActionSchemas:
    """Schemas by action, made at load or when first asked for. The catalog bounds their number."""

    operators: str
    tools: Mapping[str, Tool]
    _made: dict[str, ActionSchema] = field(default_factory=dict)

    def of(self, action: str) -> ActionSchema:
        """The schema for an action of the catalog; for any other action the one without tools."""
        tool = self.tools.get(action)
        name = action if tool is not None else ""
        made = self._made.get(name)
        if made is None:
            generated = generated_schema([tool] if tool is not None else [])
            schema = Schema.from_str(self.operators + "\n" + generated)
            made = self._made[name] = ActionSchema(schema, Entities.from_json_str("[]", schema))
        return made


def build_action_schemas(bundle: Bundle) -> ActionSchemas:
    """The schemas of a bundle whose whole schema is valid."""
    schemas = ActionSchemas(bundle.schema, bundle.catalog.tools)
    for action in ("", *list(bundle.catalog.tools)[:_MADE_AT_LOAD]):
        schemas.of(action)
    return schemas
