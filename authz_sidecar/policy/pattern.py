"""Resource ids and the patterns that name many of them.

A resource id is `scheme:path`: a lower-case scheme, then printable ASCII segments separated by `/`. The alphabet has no
`*`, `%`, `?`, `#`, backslash or blank, so that an id has one spelling and no tool server decodes it into another one.
A pattern is an id in which `*` matches any run of characters, `/` included.
"""

from __future__ import annotations

import re

from authz_sidecar.task.pattern import in_scope, matches

__all__ = [
    "MAX_RESOURCE_CHARS",
    "SEGMENT_CHARS",
    "MalformedResource",
    "check_pattern",
    "check_resource_id",
    "in_scope",
    "matches",
]

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
