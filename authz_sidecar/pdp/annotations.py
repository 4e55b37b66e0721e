"""What the annotations of a policy say: its id, its reason, its tier, and the approval that may lift it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from authz_sidecar.documents import nearest

_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TTL = re.compile(r"([1-9][0-9]{0,5})([smh])")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_KNOWN = ("id", "reason", "tier", "approval", "approval_ttl")
_OWN = "x_"

MIN_APPROVAL_TTL = timedelta(seconds=30)
MAX_APPROVAL_TTL = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """Who may lift a soft forbid, and how long a request for that stays open."""

    role: str
    ttl: timedelta


def annotation_problems(effect: str, annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Everything wrong with the annotations of one policy: the annotation's name, empty for a missing one, and why.

    Annotations only ever tighten: `@approval` belongs to a soft forbid, which without the approval denies.
    Uniqueness of `@id` is not checked here: it takes the whole bundle.
    """
    for name in sorted(annotations):
        if name not in _KNOWN and not name.startswith(_OWN):
            hint = nearest(name, _KNOWN) or f"; annotations of your own start with `@{_OWN}`"
            yield name, f"unknown annotation `@{name}`{hint}"
    if "id" not in annotations:
        yield "", 'the policy has no `@id("...")`'
    elif not _ID.fullmatch(annotations["id"]):
        yield "id", "`@id` must be 1 to 128 lower-case letters, digits, `.`, `_` and `-`"
    if not annotations.get("reason", "").strip():
        yield "", 'the policy has no `@reason("...")`; write one sentence for the person who is denied'
    elif len(annotations["reason"]) > 300:
        yield "reason", "`@reason` is longer than 300 characters"
    yield from _tier_problems(effect, annotations)


def _tier_problems(effect: str, annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    tier = annotations.get("tier")
    if effect == "permit":
        for name in ("tier", "approval", "approval_ttl"):
            if name in annotations:
                yield name, f"`@{name}` on a permit; only a forbid has a tier"
        return
    if tier is None:
        yield "", 'the forbid has no `@tier("hard")` or `@tier("soft")`'
    elif tier not in ("hard", "soft"):
        yield "tier", f"`@tier` must be `hard` or `soft`, got `{tier[:40]}`"
    if tier == "soft":
        yield from _approval_problems(annotations)
        return
    for name in ("approval", "approval_ttl"):
        if name in annotations:
            yield name, f"`@{name}` on a forbid that is not soft; nothing lifts a hard forbid"


def _approval_problems(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if "approval" not in annotations:
        yield "", 'the soft forbid has no `@approval("role")`; without one nobody could lift it'
    elif not _ROLE.fullmatch(annotations["approval"]):
        yield "approval", "`@approval` must be one role of lower-case letters, digits, `_` and `-`"
    if "approval_ttl" not in annotations:
        yield "", 'the soft forbid has no `@approval_ttl("15m")`'
        return
    ttl = parse_ttl(annotations["approval_ttl"])
    if ttl is None or not MIN_APPROVAL_TTL <= ttl <= MAX_APPROVAL_TTL:
        yield "approval_ttl", "`@approval_ttl` must be like `90s`, `15m` or `2h`, from 30s to 24h"


def approval_rule(annotations: Mapping[str, str]) -> ApprovalRule | None:
    """The approval of a policy whose annotations have no problems; None unless it is a soft forbid."""
    ttl = parse_ttl(annotations.get("approval_ttl", ""))
    return ApprovalRule(annotations["approval"], ttl) if ttl is not None else None


def parse_ttl(text: str) -> timedelta | None:
    """`90s`, `15m`, `2h`; None for anything else."""
    found = _TTL.fullmatch(text)
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]]) if found else None
