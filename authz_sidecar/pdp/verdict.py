"""What the policy decision point says. Three values; a function that takes a `Permit` cannot be given anything else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """A policy that decided.

    Attributes:
        id: the policy's `@id`.
        effect: permit or forbid.
        tier: `@tier` of a forbid; empty for a permit.
        reason: `@reason`, one sentence for humans.
        sha256: digest of the policy's canonical text, lower-case hex.
    """

    id: str
    effect: Literal["permit", "forbid"]
    tier: Literal["hard", "soft", ""]
    reason: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Every applicable rule allows it."""

    determining: tuple[PolicyRef, ...]
    reason_code: Literal["permitted"] = "permitted"
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """It must not happen.

    Attributes:
        reason_code: stable, lower snake case: `forbidden_by_policy`, `no_permit`, `evaluation_error`, `no_decision`,
            `empty_policy_set`, `lifetime_exhausted`, or a fact that could not be established (`unknown_tool`,
            `task_not_found`, `audience_mismatch`, `arguments_missing`, `arguments_invalid`, `resource_mismatch`,
            `resource_underivable`).
        errors: sorted; one line per policy that failed to evaluate, or the fact that is missing.
    """

    reason_code: str
    determining: tuple[PolicyRef, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequired:
    """Denied only by policies that an approval can lift, and permitted without them.

    Attributes:
        determining: the soft forbids that ask.
        role: the `@approval` role; with several policies, all their roles, sorted.
        ttl: the shortest `@approval_ttl` among them.
    """

    determining: tuple[PolicyRef, ...]
    role: tuple[str, ...]
    ttl: timedelta
    reason_code: Literal["approval_required"] = "approval_required"
    errors: tuple[str, ...] = ()


Verdict: TypeAlias = Permit | Deny | ApprovalRequired
