"""Canonical JSON: one value, one byte string. RFC 8785 (JCS) over a restricted profile.

The profile: objects, arrays, strings, booleans, null and integers with |n| < 2^53; no floats, ASCII member names only,
no lone surrogates. Decimals, times and addresses travel as strings. Inside the profile orjson with sorted keys yields
the bytes of RFC 8785 (a property test compares it with another implementation); outside it they differ in the spelling
of numbers and the order of names, so the profile is checked before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from authz_sidecar.strictjson import MAX_INTEGER, Json

MAX_DEPTH = 64

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_SUBCLASS

_KINDS = frozenset({dict, list, str, int, bool, type(None)})
_NAME_KINDS = frozenset({str})


class NotCanonical(ValueError):
    """The value has no canonical form in the profile. `path` names the place: `$.tool.risks[2]`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"`{path}`: {problem}")
        self.path = path


def canonical(value: Json) -> bytes:
    """The canonical bytes of `value`.

    Only exact `dict`, `list`, `str`, `int`, `bool` and `None` are accepted; subclasses (enumerations, for one) are not,
    because two serialisers need not agree on them. The size is not checked here.

    Raises:
        NotCanonical: the value is outside the profile, or has more than 64 objects and arrays inside each other.
    """
    names: list[str] = []
    if not _in_profile((value,), names, 0) or not set(map(type, names)) <= _NAME_KINDS or not "".join(names).isascii():
        raise _first_problem(value)
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError:
        # What the quick check cannot see cheaply: a lone surrogate, and an integer of 2^53 or more.
        raise _first_problem(value) from None


def _in_profile(values: Iterable[Json], names: list[str], depth: int) -> bool:
    """Check the values and collect the member names: no paths, because this is on the hot path of every decision."""
    if depth > MAX_DEPTH:
        return False
    for item in values:
        kind = type(item)
        if kind is str or kind is int or item is None or kind is bool:
            continue
        if kind is dict:
            names += item  # type: ignore[arg-type]
            if not _in_profile(item.values(), names, depth + 1):  # type: ignore[union-attr]
                return False
        elif kind is list:
            if not _in_profile(item, names, depth + 1):  # type: ignore[arg-type]
                return False
        else:
            return False
    return True


def _first_problem(value: Json) -> NotCanonical:
    """Walk again, slowly, and name the first thing that is wrong."""
    stack: list[tuple[str, int, Json]] = [("$", 0, value)]
    while stack:
        path, depth, item = stack.pop()
        problem = _problem(item, depth)
        if problem:
            return NotCanonical(path, problem)
        if type(item) is dict:
            stack.extend((f"{path}.{name[:64]}", depth + 1, below) for name, below in reversed(item.items()))
        elif type(item) is list:
            stack.extend((f"{path}[{place}]", depth + 1, below) for place, below in reversed([*enumerate(item)]))
    return NotCanonical("$", "cannot be serialised")


def _problem(item: Json, depth: int) -> str | None:  # noqa: PLR0911 - one line per rule of the profile
    kind = type(item)
    if depth >= MAX_DEPTH and kind in (dict, list):
        return f"nested deeper than {MAX_DEPTH}"
    if isinstance(item, float):
        return "a floating-point number; send decimals as strings"
    if kind not in _KINDS:
        return f"a value of type `{kind.__name__}`; expected an object, array, string, integer, boolean or null"
    if kind is int and abs(item) > MAX_INTEGER:  # type: ignore[arg-type]
        return "an integer beyond 2^53-1; send it as a string"
    if kind is str and not _is_unicode(item):  # type: ignore[arg-type]
        return "a lone surrogate in a string"
    if kind is dict and not all(type(name) is str and name.isascii() for name in item):  # type: ignore[union-attr]
        return "a member name that is not an ASCII string"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
