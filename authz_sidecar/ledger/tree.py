"""The Merkle tree of RFC 6962 section 2: hashes, frontier, proofs. Pure; whoever has the hashes passes them in.

Ranges are half-open: `[begin, end)` are the leaves `begin` … `end - 1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import islice

HASH_BYTES = 32
EMPTY_ROOT = sha256().digest()

# Every 2^8 leaves form a tile, every 2^8 tiles a tile of the next level (C2SP tlog-tiles).
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT

RangeHash = Callable[[int, int], bytes]


class InvalidProof(ValueError):
    """The proof does not lead where it claims to lead."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1 over leaf hashes, or over the roots of equally large complete subtrees."""
    if not hashes:
        return EMPTY_ROOT
    level = hashes
    while len(level) > 1:
        pairs = zip(islice(level, 0, None, 2), islice(level, 1, None, 2), strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def split_point(width: int) -> int:
    """The largest power of two smaller than `width`: where RFC 6962 splits a tree of `width` > 1 leaves."""
    return 1 << (width - 1).bit_length() - 1


class CompactRange:
    """The frontier of a growing tree: the roots of its complete subtrees, largest first. At most 63 hashes."""

    __slots__ = ("_roots", "size")

    def __init__(self, size: int = 0, roots: Iterable[bytes] = ()) -> None:
        """
        Args:
            size: number of leaves.
            roots: one root for each bit of `size` that is set, most significant first.
        """
        self.size = size
        self._roots = list(roots)
        if len(self._roots) != size.bit_count():
            raise ValueError(
                f"a tree of {size} leaves has {size.bit_count()} complete subtrees, not {len(self._roots)}"
            )

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add one leaf hash.

        Returns:
            The tiles that this leaf completes, as (level, index, root): level 1 is the root of 256 leaves.
        """
        roots, node, size = self._roots, leaf, self.size
        self.size = size + 1
        if (size + 1) % TILE_WIDTH:
            while size & 1:
                node = sha256(b"\x01" + roots.pop() + node).digest()
                size >>= 1
            roots.append(node)
            return []
        tiles = []
        height = 0
        while size & 1:
            node = sha256(b"\x01" + roots.pop() + node).digest()
            size >>= 1
            height += 1
            if height % TILE_HEIGHT == 0:
                tiles.append((height // TILE_HEIGHT, size, node))
        roots.append(node)
        return tiles

    def root(self) -> bytes:
        """The root of the tree."""
        if not self._roots:
            return EMPTY_ROOT
        node = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            node = node_hash(left, node)
        return node

    def copy(self) -> CompactRange:
        return CompactRange(self.size, self._roots)


def complete_subtrees(size: int) -> list[tuple[int, int]]:
    """The ranges of a tree's complete subtrees, largest first: what a `CompactRange` holds."""
    ranges = []
    begin = 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            ranges.append((begin, begin + (1 << bit)))
            begin += 1 << bit
    return ranges


def inclusion_proof(index: int, size: int, hash_of: RangeHash) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, leaf side first.

    Args:
        index: the leaf, below `size`.
        size: leaves of the tree that the proof leads to.
        hash_of: MTH of a range.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    begin, end = 0, size
    path = []
    while end - begin > 1:
        middle = begin + split_point(end - begin)
        if index < middle:
            path.append(hash_of(middle, end))
            end = middle
        else:
            path.append(hash_of(begin, middle))
            begin = middle
    return path[::-1]


def consistency_proof(old_size: int, new_size: int, hash_of: RangeHash) -> list[bytes]:
    """PROOF of RFC 6962 section 2.1.2. Empty when the sizes are equal or the old tree is empty."""
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {new_size} leaves does not extend one of {old_size}")
    if old_size in (0, new_size):
        return []
    begin, end = 0, new_size
    path = []
    # The old tree's root is known to the verifier exactly when it is still one whole left subtree.
    known = True
    while end != old_size:
        middle = begin + split_point(end - begin)
        if old_size <= middle:
            path.append(hash_of(middle, end))
            end = middle
        else:
            path.append(hash_of(begin, middle))
            begin = middle
            known = False
    if not known:
        path.append(hash_of(begin, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 section 2.1.3.2. Raises InvalidProof."""
    if not 0 <= index < size:
        raise InvalidProof(f"no leaf {index} in a tree of {size}")
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise InvalidProof("the inclusion proof is too long")
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        place >>= 1
        last >>= 1
    if last != 0 or node != root:
        raise InvalidProof(f"the inclusion proof of leaf {index} does not lead to the root of size {size}")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 section 2.1.4.2. Raises InvalidProof."""
    if not 0 <= old_size <= new_size:
        raise InvalidProof(f"a tree of {new_size} leaves does not extend one of {old_size}")
    if old_size in (0, new_size):
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected:
            raise InvalidProof(f"sizes {old_size} and {new_size} need an empty proof and matching roots")
        return
    # A root that is a whole left subtree is left out of the proof, because the verifier has it.
    hashes = [old_root, *proof] if old_size & (old_size - 1) == 0 else [*proof]
    if not hashes:
        raise InvalidProof("the consistency proof is empty")
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old_node = new_node = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise InvalidProof("the consistency proof is too long")
        if place & 1 or place == last:
            old_node = node_hash(sibling, old_node)
            new_node = node_hash(sibling, new_node)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            new_node = node_hash(new_node, sibling)
        place >>= 1
        last >>= 1
    if last != 0 or old_node != old_root or new_node != new_root:
        raise InvalidProof(f"the log of size {new_size} does not extend the log of size {old_size}")
