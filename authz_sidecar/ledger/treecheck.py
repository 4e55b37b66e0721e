"""Recomputing the tree from the entries and comparing it with everything that was signed.

Only signed roots are evidence. Stored leaf hashes and tile hashes are hints: they count once they lead to a signed
root, because then nobody can have chosen them freely (RFC 6962 relies on the collision resistance of SHA-256), and then
they tell which entry, or which 256 entries, no longer match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from authz_sidecar.ledger.checkpoint import Checkpoint
from authz_sidecar.ledger.findings import Finding
from authz_sidecar.ledger.reads import LedgerReads
from authz_sidecar.ledger.tree import TILE_WIDTH, CompactRange, root_of, split_point


@dataclass(frozen=True, slots=True)
class SignedRoot:
    """A checkpoint whose signature was verified, and where it came from: `stored` or `external`."""

    checkpoint: Checkpoint
    source: str


class TreeCheck:
    """Feed it all entries in order, then ask for its findings."""

    def __init__(self, reads: LedgerReads, signed: Sequence[SignedRoot]) -> None:
        """
        Args:
            signed: genuine checkpoints; those beyond the end of the log are the caller's business.
        """
        self._reads = reads
        self._signed = sorted(signed, key=lambda root: root.checkpoint.size)
        self._next = 0
        self._good_size = 0
        self._last_match = -1
        self._broken_size = 0
        self._refined = False
        self._computed = CompactRange()
        # The tree of the stored leaf hashes, from the first entry on that does not match its own.
        self._stored: CompactRange | None = None
        self._mismatches: list[Finding] = []
        self._bad_tiles: list[Finding] = []
        self._broken: Finding | None = None
        self._gap: Finding | None = None
        self._compare()

    @property
    def size(self) -> int:
        return self._computed.size

    def root(self) -> bytes:
        """Root of the tree computed from the entries' bytes."""
        return self._computed.root()

    def add(self, index: int, stored_hash: bytes, body: bytes) -> None:
        """Take the next entry. Does nothing after a gap: without an entry there is no root."""
        if self._gap is not None:
            return
        computed = self._computed
        if index != computed.size:
            self._gap = Finding.at(computed.size, f"entry {computed.size} is missing")
            return
        leaf = sha256(b"\x00" + body).digest()
        if leaf != stored_hash:
            if self._stored is None:
                self._stored = computed.copy()
            self._mismatches.append(Finding.at(index, f"entry {index} does not match its stored leaf hash"))
        if self._stored is not None:
            self._stored.append(stored_hash)
        tiles = computed.append(leaf)
        if tiles:
            self._compare_tiles(tiles)
        if self._next < len(self._signed) and self._signed[self._next].checkpoint.size == computed.size:
            self._compare()

    def findings(self) -> list[Finding]:
        """What is wrong, after the last entry."""
        breaks = (self._gap, self._fork() or self._broken)
        findings = [*self._mismatches, *(finding for finding in breaks if finding is not None)]
        for tile in self._bad_tiles:
            if tile.last is not None and tile.last < self._good_size:
                # The entries lead to a signed root, so it is the stored hash that was altered.
                findings.append(Finding(first=None, last=None, detail=tile.detail))
            elif self._broken is None:
                findings.append(tile)
        return findings

    def _compare(self) -> None:
        """Compare with every signed root of the present size."""
        size = self._computed.size
        while self._next < len(self._signed) and self._signed[self._next].checkpoint.size == size:
            signed = self._signed[self._next]
            self._next += 1
            if self._computed.root() == signed.checkpoint.root:
                self._last_match = size
                if self._broken is None:
                    self._good_size = size
            elif self._broken is None:
                self._broken, self._broken_size = self._narrow(signed), size
            else:
                self._refine(signed)

    def _fork(self) -> Finding | None:
        """A signed root that does not fit, and one as large or larger that does: two histories, both signed."""
        if self._broken is None or self._last_match < self._broken_size:
            return None
        detail = f"{self._broken.detail}, and the same key signed this log too: the log was rewritten by its own key"
        return Finding(first=0, last=self._broken_size - 1, detail=detail)

    def _narrow(self, signed: SignedRoot) -> Finding:
        """The entries that no longer lead to a signed root, as few as the stored hashes can prove."""
        size, root = signed.checkpoint.size, signed.checkpoint.root
        what = f"the {signed.source} checkpoint of size {size} was signed over other entries"
        if self._stored is not None and self._stored.root() == root and self._mismatches:
            # The stored leaf hashes are the signed ones, so exactly the entries that differ from theirs were altered.
            return self._mismatches[0]
        first = self._good_size if self._good_size < size else 0
        return self._within_tile(Finding(first=first, last=size - 1, detail=what), signed)

    def _refine(self, signed: SignedRoot) -> None:
        """A later checkpoint can tell more: the tile that was unfinished under the first bad one is full under it."""
        broken = self._broken
        if self._refined or broken is None or broken.exact or broken.last is None:
            return
        if signed.checkpoint.size > broken.last - broken.last % TILE_WIDTH + TILE_WIDTH:
            self._refined = True
            self._broken = self._within_tile(broken, signed)

    def _within_tile(self, finding: Finding, signed: SignedRoot) -> Finding:
        """When the stored tile hashes are the signed ones, the first that differs holds the first altered entry."""
        bad = self._bad_tiles[0] if self._bad_tiles else None
        if bad is None or bad.first is None or bad.last is None or finding.first is None or finding.last is None:
            return finding
        if not self._tiles_lead_to(signed.checkpoint.size, signed.checkpoint.root):
            return finding
        return replace(finding, first=max(finding.first, bad.first), last=min(finding.last, bad.last))

    def _tiles_lead_to(self, size: int, root: bytes) -> bool:
        full = size // TILE_WIDTH
        try:
            tiles = self._reads.tile_roots(1, 0, full)
            rest = self._reads.leaf_hashes(full * TILE_WIDTH, size)
        except LookupError:
            return False
        return _root_over_tiles(tiles, rest) == root

    def _compare_tiles(self, tiles: list[tuple[int, int, bytes]]) -> None:
        for level, place, root in tiles:
            try:
                stored = self._reads.tile_roots(level, place, place + 1)[0]
            except LookupError:
                stored = b""
            if stored != root:
                width = TILE_WIDTH**level
                self._bad_tiles.append(
                    Finding(
                        first=place * width,
                        last=(place + 1) * width - 1,
                        detail=f"the stored hash of tile {place} of level {level} is not that of its entries",
                    )
                )


def _root_over_tiles(tiles: list[bytes], rest: list[bytes]) -> bytes:
    """The root of a tree whose first leaves are given as the roots of full tiles."""
    if not tiles:
        return root_of(rest)
    if not rest:
        return root_of(tiles)
    # Splitting at whole tiles is what RFC 6962 does anyway, as long as more than one tile's width is left.
    return _join([*tiles, root_of(rest)])


def _join(parts: list[bytes]) -> bytes:
    if len(parts) == 1:
        return parts[0]
    middle = split_point(len(parts))
    return sha256(b"\x01" + _join(parts[:middle]) + _join(parts[middle:])).digest()
