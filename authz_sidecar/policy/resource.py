"""Which resource a call is about, by the catalog's rule for the tool.

A rule is one of three: a template filled from the arguments, a fixed id, or patterns for an id that the caller
declares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from authz_sidecar.policy.pattern import SEGMENT_CHARS, MalformedResource, check_resource_id, in_scope
from authz_sidecar.strictjson import Json

MAX_VALUE_CHARS = 256

_VALUE = re.compile(rf"[{SEGMENT_CHARS}]+")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class ResourceUnderivable(ValueError):
    """No resource follows from this call. The text names the argument and never its value."""


class ResourceMismatch(ValueError):
    """The caller declared another resource than the one that follows from the call."""


class MalformedTemplate(ValueError):
    """The template cannot be filled safely."""


@dataclass(frozen=True, slots=True)
class DerivedResource:
    """The resource of a call.

    Attributes:
        id: the resource id.
        source: where it came from; only `declared` rests on the word of the caller.
    """

    id: str
    source: Literal["arguments", "declared", "fixed"]


@dataclass(frozen=True, slots=True)
class Template:
    """`crm:contact/{contact_id}`: literals and argument names in turn, beginning and ending with a literal.

    INVARIANT: between two values stands a literal with `/`, which no value contains, so two different argument tuples
    never give the same id.
    """

    text: str
    literals: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises MalformedTemplate."""
        parts = _PLACEHOLDER.split(text)
        literals, names = tuple(parts[0::2]), tuple(parts[1::2])
        if not names:
            raise MalformedTemplate("no `{argument}` in the template; use `fixed` for a resource that never changes")
        if not all(names):
            raise MalformedTemplate("an empty `{}`")
        if not re.fullmatch(r"[a-z][a-z0-9+.-]{0,31}:.*", literals[0]):
            raise MalformedTemplate("a template starts with `scheme:`, so that no argument chooses the scheme")
        if any("/" not in literal for literal in literals[1:-1]):
            raise MalformedTemplate("a `/` is needed between two arguments, so that one cannot run into the other")
        try:
            check_resource_id("x".join(literals))
        except MalformedResource as error:
            raise MalformedTemplate(str(error)) from None
        return cls(text, literals, names)

    def fill(self, arguments: Mapping[str, Json]) -> str:
        """The resource id. Raises ResourceUnderivable for a missing or unsafe value."""
        pieces = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            pieces += (_segment(name, arguments.get(name)), literal)
        try:
            return check_resource_id("".join(pieces))
        except MalformedResource as error:
            raise ResourceUnderivable(f"the arguments give {error}") from None


@dataclass(frozen=True, slots=True)
class Fixed:
    """The tool is always about this resource."""

    id: str


@dataclass(frozen=True, slots=True)
class Declared:
    """The caller names the resource; it must match one of the patterns."""

    patterns: tuple[str, ...]


ResourceRule: TypeAlias = Template | Fixed | Declared


def derive(rule: ResourceRule, arguments: Mapping[str, Json] | None, declared: str | None) -> DerivedResource:
    """Apply a rule.

    Args:
        rule: of the tool.
        arguments: of the call; None when only their digest is known.
        declared: what the caller says; None or empty when it says nothing.

    Raises:
        ResourceUnderivable: an argument is missing or unsafe, or a declaration is missing, malformed or not allowed.
        ResourceMismatch: the declaration differs from what follows from the call.
    """
    if isinstance(rule, Declared):
        return DerivedResource(_declared(rule, declared), "declared")
    if isinstance(rule, Fixed):
        found = DerivedResource(rule.id, "fixed")
    elif arguments is None:
        raise ResourceUnderivable("the resource follows from the arguments, and only their digest was sent")
    else:
        found = DerivedResource(rule.fill(arguments), "arguments")
    if declared and declared != found.id:
        raise ResourceMismatch("the declared resource is not the one that follows from the call; leave it empty")
    return found


def _declared(rule: Declared, declared: str | None) -> str:
    if not declared:
        raise ResourceUnderivable("the catalog expects the caller to declare the resource of this tool")
    try:
        check_resource_id(declared)
    except MalformedResource as error:
        raise ResourceUnderivable(f"declared {error}") from None
    if not in_scope(rule.patterns, declared):
        raise ResourceUnderivable("the declared resource matches none of the patterns of this tool")
    return declared


def _segment(name: str, value: Json) -> str:
    # bool is an int in Python; a template over a boolean is refused at load, so it can only be a wrong type here.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ResourceUnderivable(f"argument `{name}` is missing or is not a string or an integer")
    if len(value) > MAX_VALUE_CHARS or not _VALUE.fullmatch(value) or value in (".", ".."):
        raise ResourceUnderivable(
            f"argument `{name}` cannot be part of a resource id; "
            f"expected 1 to {MAX_VALUE_CHARS} letters, digits and ._~@+=,:!$&()'-"
        )
    return value
