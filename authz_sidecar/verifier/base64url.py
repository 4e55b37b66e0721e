"""Base64url without padding, one spelling per byte string (RFC 7515 section 2, RFC 4648 section 3.5)."""

from __future__ import annotations

import base64
import re

_SHA256 = re.compile(r"[A-Za-z0-9_-]{43}")


def encode(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Inverse of `encode`. Raises ValueError for a text that `encode` would not have written."""
    try:
        raw = base64.urlsafe_b64decode(text + "==="[: -len(text) % 4])
    except ValueError:
        raise ValueError("not base64url") from None
    # Python skips foreign characters and drops the unused bits of the last one, so many texts would stand for the same
    # bytes; only one of them comes back.
    if encode(raw) != text:
        raise ValueError("not base64url in its canonical form without padding")
    return raw


def is_sha256(text: str) -> bool:
    """Whether `text` is the encoding of 32 bytes, as thumbprints are. Hex is not."""
    if not _SHA256.fullmatch(text):
        return False
    try:
        return len(decode(text)) == 32
    except ValueError:
        return False
