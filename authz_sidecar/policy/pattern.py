"""Resource ids and the patterns that name many of them.

A resource id is `scheme:path`: a lower-case scheme, then printable ASCII segments separated by `/`. The alphabet has no
`*`, `%`, `?`, `#`, backslash or blank, so that an id has one spelling and no tool server decodes it into another one.
A pattern is an id in which `*` matches any run of characters, `/` included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_RESOURCE_CHARS = 512

# One value inside one segment. A template puts nothing else into a resource id.
SEGMENT_CHARS = r"A-Za-z0-9._~@+=,:!$&()'\-"

_ID = re.compile(rf"[a-z][a-z0-9+.-]{{0,31}}:[{SEGMENT_CHARS}]+(?:/[{SEGMENT_CHARS}]+)*")
_PATTERN = re.compile(rf"[{SEGMENT_CHARS}*/]+")


class MalformedResource(ValueError):
    """The text is not a resource id, or not a pattern of them."""


def check_resource_id(text: str) -> str:
    """The same text. Raises MalformedResource, which does not quote the text: it may come from arguments."""
    if len(text) > MAX_RESOURCE_CHARS:
        raise MalformedResource(f"a resource id longer than {MAX_RESOURCE_CHARS} characters")
    if not _ID.fullmatch(text):
        raise MalformedResource("not a resource id; expected `scheme:path` of letters, digits and ._~@+=,:!$&()'-/")
    if any(segment in (".", "..") for segment in text.partition(":")[2].split("/")):
        raise MalformedResource("a resource id with a relative segment")
    return text


def check_pattern(text: str) -> str:
    """The same text. Raises MalformedResource for anything that is not a pattern."""
    if len(text) > MAX_RESOURCE_CHARS:
        raise MalformedResource(f"a resource pattern longer than {MAX_RESOURCE_CHARS} characters")
    if not _PATTERN.fullmatch(text):
        raise MalformedResource("not a resource pattern; expected a resource id in which `*` matches any characters")
    return text


def matches(pattern: str, resource_id: str) -> bool:
    """Whether the whole id matches. Linear in the id for each `*`; no backtracking."""
    head, *middle = pattern.split("*")
    if not middle:
        return pattern == resource_id
    tail = middle.pop()
    position, end = len(head), len(resource_id) - len(tail)
    if end < position or not resource_id.startswith(head) or not resource_id.endswith(tail):
        return False
    for part in middle:
        found = resource_id.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def in_scope(patterns: Sequence[str], resource_id: str) -> bool:
    """Whether any pattern matches. No patterns: nothing is in scope."""
    return any(matches(pattern, resource_id) for pattern in patterns)
