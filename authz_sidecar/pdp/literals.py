"""Entities that policies name. A name that nothing bears makes a permit useless and a forbid a hole, silently.

Cedar's validator checks types and actions, never whether an entity exists. At evaluation the entity store holds the
principal, the resource, what the context refers to, their groups, and all data classes: an attribute of any other
entity is an error, and `in` on it is false without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from cedarpy import pst

from authz_sidecar.documents import Problem, nearest
from authz_sidecar.pdp.policies import Policy
from authz_sidecar.policy.bundle import Bundle

_ALWAYS_PRESENT = "DataClass"
_SOURCES: Mapping[str, str] = {
    "Agent": "manifest has this agent",
    "AgentGroup": "manifest lists this group",
    "Tool": "tool of the catalog has this name",
    "ToolGroup": "tool of the catalog lists this group",
    "Collection": "line of catalog/data.yaml lists this collection",
    "DataClass": "data class has this name",
}


def named_entities(bundle: Bundle) -> Mapping[str, frozenset[str]]:
    """The ids that the bundle knows, by entity type. A type that is not listed is not checked."""
    return {
        "Agent": frozenset(bundle.agents),
        "AgentGroup": frozenset(group for manifest in bundle.agents.values() for group in manifest.groups),
        "Tool": frozenset(bundle.catalog.tools),
        "ToolGroup": frozenset(group for tool in bundle.catalog.tools.values() for group in tool.groups),
        "Collection": bundle.data.collections,
        "DataClass": frozenset(bundle.data.classes),
    }


def literal_problems(policy: Policy, known: Mapping[str, frozenset[str]]) -> Iterator[Problem]:
    """Entities that do not exist, and uses of an entity that will not be in the store."""
    statement = policy.statement
    for uid in sorted(pst.entity_uids(policy.tree), key=str):
        kind = str(uid.type)
        if kind in known and uid.id not in known[kind]:
            hint = nearest(uid.id, sorted(known[kind]))
            message = f'`{kind}::"{uid.id}"` does not exist: no {_SOURCES[kind]}{hint}'
            yield statement.problem(message, _offset(statement.text, uid))
    absent = {uid for clause in policy.tree.clauses for uid in _uses_of_absent(clause.expr, allowed=False)}
    for uid in sorted(absent, key=str):
        message = f"`{uid}` can be compared, but is not loaded: its attributes and groups are not known here"
        yield statement.problem(message, _offset(statement.text, uid))


def _uses_of_absent(node: pst.Expr, *, allowed: bool) -> Iterator[pst.EntityUid]:
    """Entity literals whose attributes or groups would be looked up. `allowed`: the place only compares identity."""
    match node:
        case pst.EntityLit(value=uid):
            if not allowed and str(uid.type) != _ALWAYS_PRESENT:
                yield uid
        case pst.BinaryOp(op="eq" | "not_eq", left=left, right=right):
            yield from _uses_of_absent(left, allowed=True)
            yield from _uses_of_absent(right, allowed=True)
        case pst.BinaryOp(op="in" | "contains", left=left, right=right):
            yield from _uses_of_absent(left, allowed=False)
            yield from _uses_of_absent(right, allowed=True)
        case pst.Is(base=base, in_expr=group):
            yield from _uses_of_absent(base, allowed=False)
            if group is not None:
                yield from _uses_of_absent(group, allowed=True)
        case pst.Set(elements=elements):
            for element in elements:
                yield from _uses_of_absent(element, allowed=True)
        case _:
            for child in _children(node):
                yield from _uses_of_absent(child, allowed=False)


def _children(node: Any) -> Iterator[pst.Expr]:
    for field in fields(node):
        value = getattr(node, field.name)
        for part in value.values() if isinstance(value, Mapping) else (value,):
            if is_dataclass(part) and isinstance(part, pst.Expr):
                yield part


def _offset(text: str, uid: pst.EntityUid) -> int:
    return max(text.find(f'{uid.type}::"{uid.id}"'), 0)
