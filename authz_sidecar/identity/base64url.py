"""Base64url without padding, one spelling per byte string (RFC 7515 section 2, RFC 4648 section 3.5)."""

from __future__ import annotations

import base64
import re

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


class MalformedBase64Url(ValueError):
    """Not base64url, padded, or with unused bits that are not zero."""


def encode(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Inverse of `encode`: whatever `encode` would not have written is refused with MalformedBase64Url."""
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise MalformedBase64Url("not base64url without padding")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # Python ignores the unused bits of the last character, so up to 16 texts would mean the same bytes.
    if encode(raw) != text:
        raise MalformedBase64Url("base64url with unused bits that are not zero")
    return raw
