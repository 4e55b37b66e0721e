"""Patterns in which `*` matches any run of characters, `/` included: what they match, and what they cover."""

from __future__ import annotations

from collections.abc import Sequence


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches. Linear in the text for each `*`; no backtracking."""
    head, *middle = pattern.split("*")
    if not middle:
        return pattern == text
    tail = middle.pop()
    position, end = len(head), len(text) - len(tail)
    if end < position or not text.startswith(head) or not text.endswith(tail):
        return False
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def in_scope(patterns: Sequence[str], text: str) -> bool:
    """Whether any pattern matches. No patterns: nothing is in scope."""
    return any(matches(pattern, text) for pattern in patterns)


def covers(wider: Sequence[str], narrower: Sequence[str]) -> bool:
    """Whether everything that any of `narrower` matches is matched by one of `wider`. Nothing covers no patterns.

    Sound: a `*` of the narrower pattern is a character that no literal part of the wider one holds, so only a `*` of
    the wider one can take it up, and then takes up whatever stands in its place. Not complete: a narrower pattern that
    only several wider ones cover together is said not to be covered.
    """
    return bool(narrower) and all(in_scope(wider, pattern) for pattern in narrower)
