"""What an auditor runs: recompute everything from the entries, and compare it with what was signed.

1. Every checkpoint in the log, and the one from outside, must carry the pinned key's signature.
2. Every entry must be there, hash to its leaf hash, and lead to every signed root that covers it.
3. Every payload must be the one that its entry commits to.
4. The record index and the state tables must be what the entries say.

The signing key's owner can sign a rewritten log. A rewrite is found by comparing with a checkpoint that was kept where
that owner cannot reach it; without one the answer is at best `verified_unanchored`.

Not checked: whether everything that happened was recorded, and whether what was recorded is true.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from authz_sidecar.errors import IntegrityFailure, OperatorError
from authz_sidecar.ledger.checkpoint import Checkpoint, open_checkpoint
from authz_sidecar.ledger.contentcheck import ContentCheck
from authz_sidecar.ledger.findings import Finding, Kind, VerifyResult, earliest
from authz_sidecar.ledger.note import MalformedKey, NoteError, VerifierKey
from authz_sidecar.ledger.projections import INDEX_COLUMNS
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.treecheck import SignedRoot, TreeCheck

__all__ = ["Kind", "VerifyResult", "verify"]

Progress = Callable[[int, int], None]

_PROGRESS_STEP = 1024
_ENTRIES = f"""
SELECT entry.idx, entry.leaf_hash, entry.body, entry.payload, payload.sha256, payload.content,
    {", ".join(f"record_index.{column}" for column in INDEX_COLUMNS)}
FROM entry LEFT JOIN payload ON payload.idx = entry.payload LEFT JOIN record_index ON record_index.idx = entry.idx
ORDER BY entry.idx
"""  # noqa: S608 - names are constants


def verify(
    ledger: LedgerReader | Path,
    *,
    vkey: str,
    checkpoint: str | None = None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Verify a whole ledger. Reads one state of it, so the sidecar may go on writing.

    A checkpoint from outside that is larger than the log gives `incomplete`: the entries it covers are not there, and
    without them it cannot be told whether the others are those it was signed over. A checkpoint in the log itself that
    is larger than the log gives `tampered`: it was stored after its entries, so they were removed.

    Args:
        ledger: an open reader, or a directory.
        vkey: verifier key of the log, pinned outside of it.
        checkpoint: a signed checkpoint that was kept outside of the log; None when there is none.
        progress: called now and then with the number of entries done and their total.

    Raises:
        OperatorError: no ledger there, or `vkey` or `checkpoint` is not what it should be.
        IntegrityFailure: the database is so damaged that not even the number of entries can be read.
    """
    pinned = _parse_vkey(vkey)
    outside = _parse_outside(checkpoint, vkey) if checkpoint is not None else None
    with _opened(ledger) as reader, reader.snapshot() as connection:
        try:
            run = _Verification(reader, connection, pinned, outside)
            run.read_checkpoints()
        except sqlite3.DatabaseError as error:
            raise IntegrityFailure(
                f"the database in `{reader.directory}` is damaged ({error}); keep the directory as evidence"
            ) from error
        return run.read_entries(progress)


class _Verification:
    """One run over one snapshot."""

    def __init__(
        self, reader: LedgerReader, connection: sqlite3.Connection, pinned: VerifierKey, outside: Checkpoint | None
    ) -> None:
        self._reader = reader
        self._connection = connection
        self._pinned = pinned
        self._outside = outside
        self._size = reader.size
        self._signed: list[SignedRoot] = []
        self._findings: list[Finding] = []

    def read_entries(self, progress: Progress | None) -> VerifyResult:
        if self._outside is not None and self._outside.size <= self._size:
            self._signed.append(SignedRoot(self._outside, "external"))
        with closing(ContentCheck()) as content:
            tree = TreeCheck(self._reader, [root for root in self._signed if root.checkpoint.size <= self._size])
            try:
                self._feed(tree, content, progress)
                self._findings += [*tree.findings(), *content.findings(), *self._orphans()]
                if not self._findings:
                    self._findings += content.state_findings(self._connection)
            except sqlite3.DatabaseError as error:
                self._findings += tree.findings()
                self._findings.append(Finding.at(tree.size, f"entry {tree.size} cannot be read: {error}"))
            return self._result(tree, content.missing)

    def _feed(self, tree: TreeCheck, content: ContentCheck, progress: Progress | None) -> None:
        # Row by row: a page of rows would be lost with the first one that cannot be read.
        for done, row in enumerate(self._connection.execute(_ENTRIES), 1):
            tree.add(row[0], row[1], row[2])
            content.add(row[0], row[2], row[3:6], row[6:])
            if progress is not None and (done % _PROGRESS_STEP == 0 or done == self._size):
                progress(done, self._size)

    def read_checkpoints(self) -> None:
        """Collect the genuine ones; report the others, those beyond the end, and a missing closing one."""
        for size, note in self._connection.execute("SELECT size, note FROM checkpoint ORDER BY size"):
            problem = None
            try:
                checkpoint = open_checkpoint(note, [str(self._pinned)])
            except NoteError as error:
                problem = f"the stored checkpoint of size {size} is not genuine: {error}"
            else:
                if checkpoint.size != size:
                    problem = f"the checkpoint stored under size {size} was signed for size {checkpoint.size}"
            if problem is not None:
                self._findings.append(Finding(first=None, last=None, detail=problem, checkpoint=size))
                continue
            self._signed.append(SignedRoot(checkpoint, "stored"))
            if size > self._size:
                detail = f"entries {self._size} to {size - 1} are missing: a checkpoint covers them"
                self._findings.append(Finding(first=self._size, last=size - 1, detail=detail, first_known=True))
        if self._reader.claimed_vkey != str(self._pinned):
            detail = f"the log names another key than the pinned one, `{self._pinned.name}`"
            self._findings.append(Finding(first=None, last=None, detail=detail))
        signed_size = self._signed_size()
        if not self._signed:
            detail = f"no checkpoint in the log is signed with the pinned key `{self._pinned.name}`"
            self._findings.append(Finding(first=None, last=None, detail=detail))
        elif self._connection.execute("SELECT clean FROM log").fetchone()[0] and signed_size < self._size:
            detail = f"entries {signed_size} to {self._size - 1} were added, or their checkpoint removed, after the end"
            self._findings.append(Finding(first=signed_size, last=self._size - 1, detail=detail))

    def _orphans(self) -> Iterator[Finding]:
        """Index rows without an entry; rows that are wrong or missing were found entry by entry."""
        query = "SELECT min(idx) FROM record_index WHERE idx >= ? OR idx < 0"
        index = self._connection.execute(query, (self._size,)).fetchone()[0]
        if index is not None:
            yield Finding.at(index, f"the record index has an entry {index} that the log does not have")

    def _signed_size(self) -> int:
        return max((root.checkpoint.size for root in self._signed if root.source == "stored"), default=0)

    def _result(self, tree: TreeCheck, missing: list[int]) -> VerifyResult:
        kind: Kind
        first: int | None = None
        suspect: tuple[int, int] | None = None
        outside = self._outside
        if self._findings:
            kind = "tampered"
            first, suspect, detail = earliest(self._findings)
        elif outside is not None and outside.size > self._size:
            kind, first, suspect = "incomplete", self._size, (self._size, outside.size - 1)
            detail = f"the checkpoint covers {outside.size} entries, the log has {self._size}: the newest are missing"
        elif missing:
            kind, suspect = "incomplete", (missing[0], missing[-1])
            detail = f"{len(missing)} payloads were erased or lost; the entries that commit to them are all there"
        elif outside is not None:
            kind = "verified"
            detail = f"all {self._size} entries fit, the first {outside.size} as witnessed from outside"
        else:
            kind = "verified_unanchored"
            detail = f"all {self._size} entries fit each other and the pinned key; nothing from outside was compared"
        return VerifyResult(
            kind=kind,
            size=self._size,
            root=tree.root(),
            signed_size=self._signed_size(),
            anchored_size=outside.size if outside else None,
            first_bad_index=first,
            suspect=suspect,
            bad_checkpoint=next((one.checkpoint for one in self._findings if one.checkpoint is not None), None),
            missing_payloads=len(missing),
            detail=detail,
        )


@contextmanager
def _opened(ledger: LedgerReader | Path) -> Iterator[LedgerReader]:
    if isinstance(ledger, LedgerReader):
        yield ledger
        return
    with LedgerReader.open(ledger) as reader:
        yield reader


def _parse_vkey(vkey: str) -> VerifierKey:
    try:
        return VerifierKey.parse(vkey)
    except MalformedKey as error:
        raise OperatorError(f"the verifier key is not one: {error}") from error


def _parse_outside(checkpoint: str, vkey: str) -> Checkpoint:
    try:
        return open_checkpoint(checkpoint, [vkey])
    except NoteError as error:
        raise OperatorError(
            f"the checkpoint from outside cannot be used: {error}; give one that this log signed with the pinned key"
        ) from error
