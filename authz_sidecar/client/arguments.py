"""Tool arguments and results as bytes and digests.

The digest is SHA-256 over the RFC 8785 form. The client computes it only for the part of JSON where that form is the
plain compact form with sorted members: no floats (RFC 8785 section 3.2.2.3 wants ECMAScript's digits) and ASCII member
names only (section 3.2.3 sorts by UTF-16 code units). For anything else there is no digest rather than a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from authz_sidecar.client.errors import RequestRejected, Violation

# What the sidecar accepts (RFC 8259 section 6 on integers); refusing it here names the argument.
_MAX_INTEGER = 2**53 - 1
_MAX_DEPTH = 31


class _NotJson(ValueError):
    """The value has no JSON form that reads back as the same value."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A JSON text and its digest: 32 bytes, or empty when it cannot be computed exactly."""

    json: bytes
    sha256: bytes


def encode_arguments(arguments: Mapping[str, object]) -> Encoded:
    """Encode the arguments of a tool call.

    Values are exactly str, int, float, bool, None, list, tuple or dict with str keys. Subclasses and everything else
    are refused: what the tool gets has to be what was authorized.

    Raises RequestRejected naming the argument. The message never holds a value.
    """
    exact = True
    for name, value in arguments.items():
        try:
            exact = _check({name: value}, _MAX_DEPTH + 1) and exact
        except _NotJson as problem:
            raise _rejected(f"`{name}`: {problem}") from None
    try:
        return _encode(dict(arguments), exact)
    except UnicodeEncodeError:
        raise _rejected("a lone surrogate in a string") from None


def result_sha256(result: object) -> bytes:
    """Digest of a tool's result: of bytes as they are, of a str as UTF-8, of other JSON values in RFC 8785 form.

    Empty for None and for everything whose digest cannot be computed exactly.
    """
    try:
        match result:
            case None:
                return b""
            case bytes():
                return hashlib.sha256(result).digest()
            case str():
                return hashlib.sha256(result.encode()).digest()
            case _:
                return _encode(result, _check(result, _MAX_DEPTH)).sha256
    except (ValueError, RuntimeError):
        # Not JSON, a lone surrogate, or changed by another thread meanwhile: no digest, and no error over the result.
        return b""


def _encode(value: object, exact: bool) -> Encoded:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    return Encoded(text, hashlib.sha256(text).digest() if exact else b"")


def _check(value: object, depth: int) -> bool:
    """Whether `_encode` writes the RFC 8785 form of the value. Raises _NotJson when it is not JSON at all."""
    if value is None or type(value) in (str, bool):
        return True
    if type(value) is int:
        if abs(value) > _MAX_INTEGER:
            raise _NotJson("an integer beyond 2^53-1; pass it as a string")
        return True
    if type(value) is float:
        if not math.isfinite(value):
            raise _NotJson("not a finite number")
        return False
    if depth == 0:
        raise _NotJson("nested too deeply")
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return _all_exact(value, depth - 1)
    if isinstance(value, dict) and type(value) is dict:
        if not all(type(name) is str for name in value):
            raise _NotJson("a member name that is not a str")
        return _all_exact(value.values(), depth - 1) and all(name.isascii() for name in value)
    raise _NotJson(
        f"expected str, int, float, bool, None, list, tuple or dict, got {type(value).__name__}; convert it first"
    )


def _all_exact(values: Iterable[object], depth: int) -> bool:
    """Checks every value, whatever the first ones are."""
    exact = True
    for value in values:
        exact = _check(value, depth) and exact
    return exact


def _rejected(description: str) -> RequestRejected:
    violation = Violation("arguments_json", description)
    return RequestRejected("INVALID_REQUEST", f"`arguments_json`: {description}", (violation,))
