"""The policy decision point. Everything that is not a clean Allow is a denial; an approval lifts only soft forbids.

Cedar skips a policy that fails to evaluate, a forbid too, and still allows. So a decision with any error is a denial,
and so is everything that the engine refuses to decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import orjson
from cedarpy import Decision, Entities, PolicySet, Schema, is_authorized

from authz_sidecar.pdp.action_schema import ActionSchema, ActionSchemas
from authz_sidecar.pdp.annotations import ApprovalRule
from authz_sidecar.pdp.index import PolicyIndex, Slice, Uid
from authz_sidecar.pdp.query import JsonObject, Query
from authz_sidecar.pdp.schema import REFERENCES
from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit, PolicyRef, Verdict
from authz_sidecar.policy.bundle import Bundle

_MAX_CACHED_LAYERS = 1024

_ERROR = re.compile(r"error while evaluating policy `([a-z0-9._-]{1,128})`: (.*)", re.DOTALL)
# Beginnings of engine messages and what they mean. The rest of such a message quotes values and is dropped.
_CAUSES = (
    ("integer overflow", "integer overflow"),
    ("record does not have the attribute", "an attribute is missing"),
    ("entity ", "an entity is missing"),
    ("`", "an attribute of an entity is missing"),
    ("type error", "values of different types"),
    ("error while evaluating `", "a malformed extension value"),
)

_Cached: TypeAlias = "tuple[_Cached | None, str]"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said, before anything is made of it.

    Attributes:
        decision: the engine's.
        reasons: ids of the determining policies, sorted.
        errors: `policy-id: cause`, sorted.
    """

    decision: Decision
    reasons: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything parsed: what the engine is asked with."""

    policies: Slice
    schema: Schema
    entities: Entities


@dataclass(slots=True, kw_only=True)
class Pdp:
    """One compiled bundle. Made by `compile_bundle`; used by one thread.

    Attributes:
        bundle: what it was compiled from.
        engine: name and version of the evaluation engine.
        policies: every policy by `@id`.
        approvals: what lifts each soft forbid, by `@id`.
        schema_text: the whole schema, the operator's part and the generated one.
    """

    bundle: Bundle
    engine: str
    policies: Mapping[str, PolicyRef]
    approvals: Mapping[str, ApprovalRule]
    schema_text: str
    schemas: ActionSchemas
    index: PolicyIndex
    _cache: dict[_Cached, Entities] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the bundle."""
        return self.bundle.digest

    def evaluate(self, query: Query) -> Verdict:
        """Decide. The same query and bundle give the same verdict; nothing else is consulted. Never raises.

        1. Parse the entities with the schema. 2. Select the policies whose scope can match. 3. Ask the engine.
        4. When only soft forbids stand in the way, ask again without them.
        """
        prepared = self._prepare(query)
        if isinstance(prepared, Deny):
            return prepared
        policies = prepared.policies
        if policies.full is None:
            return Deny(reason_code="empty_policy_set")
        answer = _ask(query, policies.full, prepared)
        refused = _refused(answer)
        if refused is not None:
            return refused
        determining = self._refs(answer.reasons)
        if answer.decision is Decision.Allow:
            return Permit(determining=determining)
        if determining and all(ref.tier == "soft" for ref in determining):
            return self._without_soft(query, prepared, determining)
        return Deny(reason_code="forbidden_by_policy" if determining else "no_permit", determining=determining)

    def _prepare(self, query: Query) -> _Prepared | Deny:
        principal, resource = _uid(query.principal), _uid(query.resource)
        parents = {_uid(found["uid"]): found["parents"] for found in query.entities}
        named = [query.context[name] for name in REFERENCES if name in query.context]
        if not {principal, resource, *map(_uid, named)} <= parents.keys():
            # Cedar would evaluate with unknown groups: a forbid on a group would silently not match.
            return Deny(reason_code="no_decision", errors=("entities: one that the question names is missing",))
        action = str(query.action["id"])
        above_principal, above_resource = _ancestors(principal, parents), _ancestors(resource, parents)
        selected = self.index.select(action, principal, above_principal, resource, above_resource)
        if selected is None:
            return Deny(reason_code="no_decision", errors=("action: not in the schema of the bundle",))
        try:
            schema = self.schemas.of(action)
            return _Prepared(selected, schema.schema, self._entities(action, schema, query.layers))
        except (ValueError, TypeError):
            return Deny(reason_code="no_decision", errors=("entities: do not fit the schema of the bundle",))

    def _without_soft(self, query: Query, prepared: _Prepared, soft: tuple[PolicyRef, ...]) -> Verdict:
        """Only soft forbids stand in the way: an approval can lift them, if then something permits."""
        policies = prepared.policies.without_soft
        if policies is None:
            return Deny(reason_code="no_permit", determining=soft)
        answer = _ask(query, policies, prepared)
        refused = _refused(answer)
        if refused is not None:
            return refused
        if answer.decision is not Decision.Allow:
            return Deny(reason_code="no_permit", determining=soft)
        rules = [self.approvals[ref.id] for ref in soft]
        return ApprovalRequired(
            determining=soft,
            role=tuple(sorted({rule.role for rule in rules})),
            ttl=min(rule.ttl for rule in rules),
        )

    def _refs(self, reasons: Iterable[str]) -> tuple[PolicyRef, ...]:
        return tuple(self.policies[name] for name in reasons)

    def _entities(self, action: str, schema: ActionSchema, layers: tuple[tuple[JsonObject, ...], ...]) -> Entities:
        """The entity store for a request. All layers but the last are kept parsed, by their exact content."""
        handle = schema.actions_only
        key: _Cached = (None, action)
        for layer in layers[:-1]:
            key = (key, orjson.dumps(layer).decode())
            known = self._cache.pop(key, None)
            if known is None:
                known = handle.with_added_json_str(key[1], schema.schema)
                if len(self._cache) >= _MAX_CACHED_LAYERS:
                    self._cache.pop(next(iter(self._cache)))
            # Re-inserted at the end: the first key is the one that was not used for longest.
            self._cache[key] = handle = known
        return handle.with_added_json_str(orjson.dumps(layers[-1]).decode(), schema.schema)


def _ask(query: Query, policies: PolicySet, prepared: _Prepared) -> Answer:
    try:
        result = is_authorized(
            {
                "principal": query.principal,
                "action": query.action,
                "resource": query.resource,
                "context": orjson.dumps(query.context).decode(),
            },
            policies,
            prepared.entities,
            prepared.schema,
        )
        diagnostics = result.diagnostics
        errors = tuple(sorted(map(short_error, diagnostics.errors)))
        return Answer(result.decision, tuple(sorted(diagnostics.reasons)), errors)
    except Exception:
        # Whatever the engine raises, there is no permit; its text may quote arguments and is dropped.
        return Answer(Decision.NoDecision, (), ("engine: failed",))


def short_error(text: str) -> str:
    """`policy-id: cause` for an engine message, without anything that it quotes."""
    found = _ERROR.match(text)
    if found is None:
        return "request: does not fit the schema of the bundle"
    cause = next((short for start, short in _CAUSES if found[2].startswith(start)), "failed to evaluate")
    return f"{found[1]}: {cause}"


def _refused(answer: Answer) -> Deny | None:
    if answer.decision is Decision.NoDecision:
        return Deny(reason_code="no_decision", errors=answer.errors)
    if answer.errors:
        return Deny(reason_code="evaluation_error", errors=answer.errors)
    return None


def _uid(reference: object) -> Uid:
    """Type and id of a reference; empty for anything else, which is then not found."""
    if not isinstance(reference, dict):
        return ("", "")
    return (str(reference.get("type")), str(reference.get("id")))


def _ancestors(uid: Uid, parents: Mapping[Uid, object]) -> set[Uid]:
    found: set[Uid] = set()
    pending = [uid]
    while pending:
        above = parents.get(pending.pop())
        for parent in map(_uid, above if isinstance(above, list) else ()):
            if parent not in found:
                found.add(parent)
                pending.append(parent)
    return found
