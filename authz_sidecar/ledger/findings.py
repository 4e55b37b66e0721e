"""What verification found: one value for each thing that is wrong, and one result for the whole log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["verified", "verified_unanchored", "tampered", "incomplete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One contradiction.

    Attributes:
        first, last: the entries it is about; equal when it names one, both None when it is about no entry.
        first_known: `first` itself is wrong or missing, not just some entry of the range.
        detail: one sentence.
        checkpoint: size of the stored checkpoint that is wrong, when that is what is wrong.
    """

    first: int | None
    last: int | None
    detail: str
    first_known: bool = False
    checkpoint: int | None = None

    @classmethod
    def at(cls, index: int, detail: str) -> Finding:
        return cls(first=index, last=index, detail=detail)

    @property
    def exact(self) -> bool:
        return self.first is not None and self.first == self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The outcome of a verification.

    Attributes:
        kind: `verified`: everything fits, and fits a checkpoint from outside. `verified_unanchored`: everything fits,
            but nothing from outside was compared: a log rewritten from the start or cut at its end fits itself.
            `tampered`: something contradicts the signatures or the entries. `incomplete`: what is there fits, but
            entries that the checkpoint from outside covers, or payloads that entries commit to, are not there.
        size: entries found.
        root: root hash computed from their bytes.
        signed_size: entries covered by the newest genuine checkpoint in the log.
        anchored_size: entries covered by the checkpoint from outside; None when none was given.
        first_bad_index: the first entry that is wrong or missing, when it is known; with a `suspect` range that starts
            before it, earlier entries of the range cannot be vouched for.
        suspect: first and last entry that may be wrong or are missing.
        bad_checkpoint: size of a stored checkpoint that is not genuine.
        missing_payloads: number of payloads that were erased or lost.
        detail: one or a few sentences for humans.
    """

    kind: Kind
    size: int
    root: bytes
    signed_size: int
    anchored_size: int | None
    first_bad_index: int | None = None
    suspect: tuple[int, int] | None = None
    bad_checkpoint: int | None = None
    missing_payloads: int = 0
    detail: str


def earliest(findings: Sequence[Finding]) -> tuple[int | None, tuple[int, int] | None, str]:
    """First bad index, suspect range and detail of the findings that lie first in the log.

    A range says "somewhere in here". An exact finding inside it names an entry; others of the range may be wrong too.
    """
    located = [finding for finding in findings if finding.first is not None]
    if not located:
        return None, None, findings[0].detail
    ranges = [finding for finding in located if not finding.exact]
    exact = min((finding for finding in located if finding.exact), key=_first, default=None)
    start = min(ranges, key=_first, default=None)
    if start is None or (exact is not None and _first(exact) < _first(start)):
        chosen = exact or located[0]
        index = _first(chosen)
        return index, (index, index), chosen.detail
    span = (_first(start), start.last if start.last is not None else _first(start))
    if exact is not None and _first(exact) <= span[1]:
        return exact.first, span, f"{exact.detail}; {start.detail}"
    return span[0] if start.first_known else None, span, start.detail


def _first(finding: Finding) -> int:
    return finding.first if finding.first is not None else 0
