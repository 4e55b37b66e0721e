"""JSON as untrusted input: one value per text, no duplicate members, bounded depth, numbers that survive.

Standard library only, so that the verifier can use it on its own. RFC 8259 leaves duplicate names and number ranges
to the implementation, and Python's choices (the last one wins, NaN is fine) let two readers see two documents.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# Integers beyond this are not interoperable: RFC 8259 section 6, RFC 7493 section 2.2.
MAX_INTEGER = 2**53 - 1

# A whole string, or one bracket. A string that never ends is taken to the end of the text: the scan stays linear.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class MalformedJson(ValueError):
    """The text is not JSON, or not JSON that two readers would agree on."""


def parse(raw: bytes, *, max_bytes: int, max_depth: int) -> Json:
    """Parse UTF-8 JSON strictly.

    Args:
        raw: the bytes as received.
        max_bytes: longest text accepted.
        max_depth: deepest nesting of arrays and objects accepted; 0 accepts scalars only.

    Raises:
        MalformedJson: too long, not UTF-8, a byte order mark, not JSON, too deep, a duplicate member, NaN or Infinity,
            an integer beyond 2^53-1, a number that overflows a double, or a lone surrogate.
    """
    if len(raw) > max_bytes:
        raise MalformedJson(f"longer than {max_bytes} bytes")
    try:
        text = raw.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"not UTF-8 at byte {error.start}") from None
    _check_depth(text, max_depth)
    try:
        value: Json = _DECODER.decode(text)
    except MalformedJson:
        raise
    except ValueError as error:
        raise MalformedJson(f"not JSON: {error}") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def parse_object(raw: bytes, *, max_bytes: int, max_depth: int) -> dict[str, Json]:
    """Like `parse`, for texts that must be an object."""
    value = parse(raw, max_bytes=max_bytes, max_depth=max_depth)
    if not isinstance(value, dict):
        raise MalformedJson("not a JSON object")
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedJson(f"duplicate member {name[:64]!r}")
            seen.add(name)
    return members


def _refuse_constant(name: str) -> Json:
    raise MalformedJson(f"`{name}` is not JSON")


def _integer(digits: str) -> int:
    # The length check comes first: int() of thousands of digits is refused by Python with a bare ValueError.
    if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        raise MalformedJson("an integer beyond 2^53-1; send it as a string")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise MalformedJson("a number beyond the range of a double")
    return value


def _check_depth(text: str, max_depth: int) -> None:
    """Bound the nesting before the recursive parser sees it."""
    # Too few brackets to be too deep, wherever they stand: true of nearly every text, and found without a loop.
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in ("[", "{"):
            depth += 1
            if depth > max_depth:
                raise MalformedJson(f"nested deeper than {max_depth}")
        elif token in ("]", "}"):
            depth -= 1


def _check_surrogates(value: Json) -> None:
    r"""Refuse lone surrogates. Only an escape such as "\ud800" can bring one past the UTF-8 check."""
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not item.isascii():
                _encodable(item)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
            stack.extend(item.keys())


def _encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedJson("a lone surrogate in a string") from None


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_refuse_constant,
    parse_int=_integer,
    parse_float=_float,
)
