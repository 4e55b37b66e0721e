"""Following a ledger as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from authz_sidecar.ledger.reads import LedgerReads, StoredEntry


def follow(ledger: LedgerReads, *, start: int, pause: Callable[[], bool]) -> Iterator[StoredEntry]:
    """Yield every entry from index `start` on, each once and in order, and go on as more become durable.

    Args:
        start: index of the first entry to yield; negative counts from the present end, like a slice.
        pause: called when all entries so far were yielded; waits a while and returns whether to go on.
    """
    following = max(0, ledger.size + start) if start < 0 else start
    while True:
        end = ledger.size
        for index in range(following, end):
            entry = ledger.entry(index)
            if entry is not None:
                yield entry
        following = max(following, end)
        if not pause():
            return
