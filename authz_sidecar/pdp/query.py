"""The question as the engine gets it: the document that is recorded with a decision and answers it again on replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from authz_sidecar.strictjson import Json

JsonObject: TypeAlias = dict[str, Json]


class MalformedQuery(ValueError):
    """The document is not one that `Query.to_json` made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question. All parts are JSON values; entities are referred to as `{"type", "id"}`, never as Cedar text.

    Attributes:
        principal, action, resource: references.
        context: what the action's schema declares.
        layers: all entities, in groups of what changes together, slowest first. Grouping is a hint for the cache of
            parsed entities and never changes an answer.
    """

    principal: JsonObject
    action: JsonObject
    resource: JsonObject
    context: JsonObject
    layers: tuple[tuple[JsonObject, ...], ...]

    @property
    def entities(self) -> tuple[JsonObject, ...]:
        return tuple(found for layer in self.layers for found in layer)

    def to_json(self) -> JsonObject:
        """The whole question as one document."""
        return {
            "principal": self.principal,
            "action": self.action,
            "resource": self.resource,
            "context": self.context,
            "entities": [*self.entities],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> Query:
        """Inverse of `to_json`. Raises MalformedQuery."""
        parts = ("principal", "action", "resource", "context")
        entities = document.get("entities")
        if document.keys() != {*parts, "entities"} or not isinstance(entities, list):
            raise MalformedQuery(f"expected the members {', '.join(parts)} and entities")
        objects = [_object(name, document[name]) for name in parts]
        for name, reference in zip(parts[:3], objects[:3], strict=True):
            if reference.keys() != {"type", "id"} or not all(isinstance(part, str) for part in reference.values()):
                raise MalformedQuery(f"`{name}`: expected `type` and `id`, both strings")
        principal, action, resource, context = objects
        layer = tuple(_object(f"entities[{index}]", found) for index, found in enumerate(entities))
        for index, found in enumerate(layer):
            if found.keys() != {"uid", "attrs", "parents"}:
                raise MalformedQuery(f"`entities[{index}]`: expected `uid`, `attrs` and `parents`")
        return cls(principal=principal, action=action, resource=resource, context=context, layers=(layer,))


def _object(name: str, value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise MalformedQuery(f"`{name}`: expected an object")
    return value
