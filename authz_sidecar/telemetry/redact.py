"""What a log line may hold: no token, no key, no credential, no tool arguments, whoever logged it.

Two nets: fields whose name says they hold a secret, and texts that look like a token or a private key wherever they
stand. Not caught: a secret of another shape inside a text under a harmless name. Callers log digests and identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import Any

REDACTED = "[redacted]"
_MAX_DEPTH = 6
_MAX_ITEMS = 64
_JSON_INTEGERS = 2**63

_SECRET = re.compile(
    r"tokens?|jwt|svid|keys?|pem|secrets?|password|credentials?|authorization|cookie|arguments?|args|justification"
)
# `token_sha256` and `key_path` speak about a secret without being one.
_ABOUT = re.compile(r"sha256|digest|thumbprint|id|kid|path|file|bytes|count|size|seconds|method|kind|state|expiry")
_WORDS = re.compile(r"[A-Za-z0-9]+")
# Compact JWS: three base64url parts, the first of which starts with `{"` when decoded.
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# RFC 7468 section 10 and its relatives; also when the end was cut off.
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


def redacted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as plain JSON values without secrets."""
    return {name: REDACTED if _is_secret(name) else _plain(value, _MAX_DEPTH) for name, value in fields.items()}


def redacted_text(text: str) -> str:
    """The text with everything that looks like a token or a private key replaced."""
    return _PRIVATE_KEY.sub(REDACTED, _TOKEN.sub(REDACTED, text))


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    return bool(words) and not _ABOUT.fullmatch(words[-1]) and any(_SECRET.fullmatch(word) for word in words)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Mapping | Sequence | Set):
        return _plain_scalar(value)
    if not depth:
        return "[nested]"
    if isinstance(value, Mapping):
        first = ((str(name), part) for name, part in islice(value.items(), _MAX_ITEMS))
        return {redacted_text(name): REDACTED if _is_secret(name) else _plain(part, depth - 1) for name, part in first}
    return [_plain(part, depth - 1) for part in islice(value, _MAX_ITEMS)]


def _plain_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < _JSON_INTEGERS else str(value)
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]"
    # The default text of an object shows its fields; only a type that says how it wants to be shown is shown.
    says_how = getattr(type(value), "__str__", None) is not object.__str__
    return redacted_text(str(value)) if says_how else f"<{type(value).__name__}>"
