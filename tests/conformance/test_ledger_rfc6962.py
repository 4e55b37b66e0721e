"""The tree against known answers of RFC 6962 implementations, and against the definition for every size up to 100."""

from __future__ import annotations

from hashlib import sha256

import pytest

from authz_sidecar.ledger.tree import (
    EMPTY_ROOT,
    CompactRange,
    InvalidProof,
    complete_subtrees,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# Leaves and roots used by the test suites of Certificate Transparency logs.
ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(100)]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH, letter by letter from RFC 6962 section 2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH, letter by letter from RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(old: int, leaves: list[bytes], *, known: bool) -> list[bytes]:
    """SUBPROOF, letter by letter from RFC 6962 section 2.1.2."""
    if old == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if old <= k:
        return [*naive_subproof(old, leaves[:k], known=known), naive_root(leaves[k:])]
    return [*naive_subproof(old - k, leaves[k:], known=False), naive_root(leaves[:k])]


def range_hash(begin: int, end: int) -> bytes:
    return naive_root(LEAVES[begin:end])


def test_roots_of_the_published_leaves() -> None:
    hashes = [leaf_hash(entry) for entry in ENTRIES]
    growing = CompactRange()
    assert (
        growing.root()
        == EMPTY_ROOT
        == bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    )
    for size, expected in enumerate(ROOTS, 1):
        growing.append(hashes[size - 1])
        assert growing.root().hex() == root_of(hashes[:size]).hex() == expected


@pytest.mark.parametrize("size", range(101))
def test_every_size_has_the_root_that_the_definition_gives(size: int) -> None:
    growing = CompactRange()
    for leaf in LEAVES[:size]:
        growing.append(leaf)
    from_frontier = CompactRange(size, [range_hash(begin, end) for begin, end in complete_subtrees(size)])
    assert growing.root() == from_frontier.root() == root_of(LEAVES[:size]) == naive_root(LEAVES[:size])


@pytest.mark.parametrize("size", range(1, 101))
def test_every_leaf_of_every_size_has_the_proof_that_the_definition_gives(size: int) -> None:
    root = naive_root(LEAVES[:size])
    for index in range(size):
        proof = inclusion_proof(index, size, range_hash)
        assert proof == naive_path(index, LEAVES[:size])
        verify_inclusion(LEAVES[index], index, size, proof, root)
        with pytest.raises(InvalidProof):
            verify_inclusion(LEAVES[index - 1], index, size, proof, root if size > 1 else bytes(32))
        with pytest.raises(InvalidProof):
            verify_inclusion(LEAVES[index], index, size, [*proof, LEAVES[0]], root)


@pytest.mark.parametrize("new_size", range(1, 101, 3))
def test_every_older_size_has_the_proof_that_the_definition_gives(new_size: int) -> None:
    new_root = naive_root(LEAVES[:new_size])
    for old_size in range(1, new_size + 1):
        old_root = naive_root(LEAVES[:old_size])
        proof = consistency_proof(old_size, new_size, range_hash)
        assert proof == naive_subproof(old_size, LEAVES[:new_size], known=True)
        verify_consistency(old_size, old_root, new_size, new_root, proof)
        with pytest.raises(InvalidProof):
            verify_consistency(old_size, bytes(32), new_size, new_root, proof)
        with pytest.raises(InvalidProof):
            verify_consistency(old_size, old_root, new_size, bytes(32), proof)
        with pytest.raises(InvalidProof):
            verify_consistency(old_size, old_root, new_size, new_root, [*proof, bytes(32)])


def test_an_empty_log_is_extended_by_every_log_and_only_with_an_empty_proof() -> None:
    verify_consistency(0, EMPTY_ROOT, 5, naive_root(LEAVES[:5]), [])
    with pytest.raises(InvalidProof):
        verify_consistency(0, LEAVES[0], 5, naive_root(LEAVES[:5]), [])
    with pytest.raises(InvalidProof):
        verify_consistency(0, EMPTY_ROOT, 5, naive_root(LEAVES[:5]), [LEAVES[0]])


def test_a_shrunk_log_has_no_proof() -> None:
    with pytest.raises(InvalidProof):
        verify_consistency(5, naive_root(LEAVES[:5]), 4, naive_root(LEAVES[:4]), [])
    with pytest.raises(ValueError, match="does not extend"):
        consistency_proof(5, 4, range_hash)


def test_the_last_leaf_of_a_tile_yields_its_root() -> None:
    growing = CompactRange()
    tiles = [tile for number in range(70_000) for tile in growing.append(leaf_hash(b"%d" % number))]
    hashes = [leaf_hash(b"%d" % number) for number in range(70_000)]
    first_level = [root for level, _, root in tiles if level == 1]
    assert [place for level, place, _ in tiles if level == 1] == list(range(273))
    assert first_level[5] == root_of(hashes[5 * 256 : 6 * 256])
    assert [(level, place, root) for level, place, root in tiles if level == 2] == [(2, 0, root_of(hashes[:65_536]))]
