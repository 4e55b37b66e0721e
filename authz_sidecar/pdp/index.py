"""Which policies a request can touch. Cost follows the matching policies instead of their total.

INVARIANT: a policy is left out only when its scope cannot match the request. Scopes cannot fail and Cedar checks them
before any condition, so leaving the policy out changes neither the decision nor the reasons nor the errors. Conditions,
annotations and effects are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cedarpy import PolicySet, pst

from authz_sidecar.pdp.policies import Policy, policy_set

Uid: TypeAlias = tuple[str, str]
# How a scope can name an entity: ("==", type, id), ("in", type, id) or ("is", type, "").
Key: TypeAlias = tuple[str, str, str]

_MAX_SLICES = 4096


@dataclass(frozen=True, slots=True)
class Slice:
    """The policies that may match, as engine handles.

    Attributes:
        full: all of them; None when there are none.
        without_soft: all but the soft forbids; None when there are none.
    """

    full: PolicySet | None
    without_soft: PolicySet | None


@dataclass(frozen=True, slots=True)
class _ActionPolicies:
    """The policies whose action constraint admits one action.

    Attributes:
        anchored: each policy under one key that its other constraints need, under None when they need nothing; so a
            slice is made from the policies it may hold instead of from all.
        principal_keys, resource_keys: every key that the constraints name.
    """

    anchored: Mapping[Key | None, tuple[Policy, ...]]
    principal_keys: frozenset[Key]
    resource_keys: frozenset[Key]


_SliceKey: TypeAlias = tuple[str, frozenset[Key], frozenset[Key]]


@dataclass(slots=True)
class PolicyIndex:
    """Slices by action, principal and resource. Built by `build_index`; used by one thread.

    Slices for principals and resources that no policy names are made at load, the others when first asked for.
    """

    actions: Mapping[str, _ActionPolicies]
    _slices: dict[_SliceKey, Slice] = field(default_factory=dict)
    _by_policies: dict[tuple[str, ...], Slice] = field(default_factory=dict)

    def select(
        self, action: str, principal: Uid, principal_in: Iterable[Uid], resource: Uid, resource_in: Iterable[Uid]
    ) -> Slice | None:
        """The slice for a request; None for an action that the schema does not have.

        Args:
            action: id of the action.
            principal, resource: as type and id.
            principal_in, resource_in: all their ancestors, by the entities that will decide.
        """
        found = self.actions.get(action)
        if found is None:
            return None
        # Only keys that some policy names tell slices apart.
        of_principal = found.principal_keys & keys_of(principal, principal_in)
        of_resource = found.resource_keys & keys_of(resource, resource_in)
        key = (action, of_principal, of_resource)
        known = self._slices.get(key)
        if known is None:
            known = self._make(found, of_principal, of_resource)
            if len(self._slices) >= _MAX_SLICES:
                self._slices.pop(next(iter(self._slices)))
            self._slices[key] = known
        return known

    def _make(self, of_action: _ActionPolicies, principal: frozenset[Key], resource: frozenset[Key]) -> Slice:
        candidates = [policy for key in (None, *principal, *resource) for policy in of_action.anchored.get(key, ())]
        chosen = {
            policy.ref.id: policy
            for policy in candidates
            if _admits(policy.tree.principal, principal) and _admits(policy.tree.resource, resource)
        }
        names = tuple(sorted(chosen))
        known = self._by_policies.get(names)
        if known is None:
            if len(self._by_policies) >= _MAX_SLICES:
                self._by_policies.pop(next(iter(self._by_policies)))
            known = self._by_policies[names] = _handles([chosen[name] for name in names])
        return known


def build_index(policies: Sequence[Policy], actions: Mapping[str, frozenset[str]]) -> PolicyIndex:
    """An index over a whole set.

    Args:
        policies: all of them.
        actions: every action of the schema with all its ancestors.
    """
    index = PolicyIndex({name: _of_action(policies, name, above) for name, above in actions.items()})
    for name in actions:
        index.select(name, ("", ""), (), ("", ""), ())
    return index


def keys_of(uid: Uid, ancestors: Iterable[Uid]) -> set[Key]:
    """Every key under which a scope could name the entity. `in` includes the entity itself."""
    kind, name = uid
    keys = {("==", kind, name), ("in", kind, name), ("is", kind, "")}
    keys.update(("in", above, group) for above, group in ancestors)
    return keys


def _of_action(policies: Sequence[Policy], action: str, above: frozenset[str]) -> _ActionPolicies:
    found = [policy for policy in policies if _admits_action(policy.tree.action, action, above)]
    anchored: dict[Key | None, list[Policy]] = {}
    for policy in found:
        needs = (*_needs(policy.tree.resource), *_needs(policy.tree.principal))
        # An entity tells more policies apart than a type does.
        anchor = next((key for key in needs if key[0] != "is"), needs[0] if needs else None)
        anchored.setdefault(anchor, []).append(policy)
    return _ActionPolicies(
        anchored={key: tuple(group) for key, group in anchored.items()},
        principal_keys=frozenset(key for policy in found for key in _needs(policy.tree.principal)),
        resource_keys=frozenset(key for policy in found for key in _needs(policy.tree.resource)),
    )


def _admits_action(constraint: pst.ActionConstraint, action: str, above: frozenset[str]) -> bool:
    match constraint:
        case pst.ScopeAny():
            return True
        case pst.ActionEq(entity=entity):
            return _is_action(entity) and entity.id == action
        case pst.ActionIn(entities=entities):
            return any(_is_action(entity) and (entity.id == action or entity.id in above) for entity in entities)


def _is_action(uid: pst.EntityUid) -> bool:
    return str(uid.type) == "Action"


def _needs(constraint: pst.PrincipalOrResourceConstraint) -> tuple[Key, ...]:
    """The keys that a request must have, all of them, for the constraint to match."""
    match constraint:
        case pst.ScopeAny():
            return ()
        case pst.ScopeEq(entity=entity):
            return (_key("==", entity),)
        case pst.ScopeIn(entity=entity):
            return (_key("in", entity),)
        case pst.ScopeIs(entity_type=kind):
            return (("is", str(kind), ""),)
        case pst.ScopeIsIn(entity_type=kind, entity=entity):
            return (("is", str(kind), ""), _key("in", entity))


def _admits(constraint: pst.PrincipalOrResourceConstraint, keys: frozenset[Key]) -> bool:
    return all(key in keys for key in _needs(constraint))


def _key(how: str, entity: pst.EntityOrSlot) -> Key:
    if isinstance(entity, pst.Slot):
        # INVARIANT: templates are refused at load, so no slot is ever left open here.
        raise TypeError("a policy with an open slot reached the index")
    return (how, str(entity.type), entity.id)


def _handles(policies: list[Policy]) -> Slice:
    rest = [policy for policy in policies if not policy.soft]
    full = policy_set(policies) if policies else None
    if len(rest) == len(policies):
        return Slice(full, full)
    return Slice(full, policy_set(rest) if rest else None)
