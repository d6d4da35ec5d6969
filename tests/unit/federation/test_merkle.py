"""The log's tree against its definition, written down as RFC 9162 does, and published vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import merkle

# The leaves, roots and proofs that Certificate Transparency's implementations test with.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION = {
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): INCLUSION[0, 8],
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
LARGEST = 140


def mth(entries: list[bytes]) -> bytes:
    """Section 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = largest_power_below(len(entries))
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def largest_power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def path(m: int, entries: list[bytes]) -> list[bytes]:
    """Section 2.1.3.1, word for word."""
    if len(entries) == 1:
        return []
    k = largest_power_below(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def subproof(m: int, entries: list[bytes], *, whole: bool) -> list[bytes]:
    """Section 2.1.4.1, word for word."""
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = largest_power_below(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], whole=whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], whole=False), mth(entries[:k])]


def stored(entries: list[bytes]) -> merkle.Read:
    """The nodes of a log, appended one by one."""
    nodes: dict[tuple[int, int], bytes] = {}

    def read(level: int, position: int) -> bytes:
        return nodes[level, position]

    for index, entry in enumerate(entries):
        for level, position, value in merkle.completed(index, merkle.leaf_hash(entry), read):
            assert nodes.setdefault((level, position), value) == value
    return read


def entries_of(size: int) -> list[bytes]:
    return [b"entry %d" % index for index in range(size)]


LOG = stored(entries_of(LARGEST))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    second = draw(st.integers(1, LARGEST))
    return draw(st.integers(1, second)), second


def test_published_roots_and_proofs() -> None:
    read = stored(LEAVES)
    assert [merkle.root(size, read).hex() for size in range(9)] == list(ROOTS)
    for (index, size), expected in INCLUSION.items():
        assert [h.hex() for h in merkle.inclusion_proof(index, size, read)] == list(expected)
    for (first, second), expected in CONSISTENCY.items():
        assert [h.hex() for h in merkle.consistency_proof(first, second, read)] == list(expected)


@given(sizes())
def test_proofs_are_those_of_the_definition(pair: tuple[int, int]) -> None:
    first, size = pair
    entries = entries_of(size)
    root = mth(entries)
    assert merkle.root(size, LOG) == root
    included = merkle.inclusion_proof(first - 1, size, LOG)
    assert included == path(first - 1, entries)
    leaf = merkle.leaf_hash(entries[first - 1])
    assert merkle.verify_inclusion(leaf, first - 1, size, included, root)
    consistent = merkle.consistency_proof(first, size, LOG)
    assert consistent == subproof(first, entries, whole=True)
    assert merkle.verify_consistency(first, size, mth(entries[:first]), root, consistent)


@given(sizes(), st.data())
def test_no_other_inclusion_verifies(pair: tuple[int, int], data: st.DataObject) -> None:
    number, size = pair
    index = number - 1
    leaf, root = merkle.leaf_hash(b"entry %d" % index), merkle.root(size, LOG)
    proof = merkle.inclusion_proof(index, size, LOG)
    other = data.draw(st.binary(min_size=32, max_size=32))
    assert not merkle.verify_inclusion(other, index, size, proof, root)
    assert not merkle.verify_inclusion(leaf, index, size, proof, other)
    assert not merkle.verify_inclusion(leaf, index, size, [*proof, root], root)
    assert not merkle.verify_inclusion(leaf, index, size, [root, *proof], root)
    for wrong in (index - 1, index + 1, index ^ 2, -1, size):
        if wrong != index:
            assert not merkle.verify_inclusion(leaf, wrong, size, proof, root)
    for place in range(len(proof)):
        assert not merkle.verify_inclusion(
            leaf, index, size, [*proof[:place], other, *proof[place + 1 :]], root
        )
        assert not merkle.verify_inclusion(
            leaf, index, size, proof[:place] + proof[place + 1 :], root
        )


@given(sizes(), st.data())
def test_no_other_history_is_consistent(pair: tuple[int, int], data: st.DataObject) -> None:
    first, second = pair
    roots = merkle.root(first, LOG), merkle.root(second, LOG)
    proof = merkle.consistency_proof(first, second, LOG)
    other = data.draw(st.binary(min_size=32, max_size=32))
    assert not merkle.verify_consistency(first, second, other, roots[1], proof)
    assert not merkle.verify_consistency(first, second, roots[0], other, proof)
    assert not merkle.verify_consistency(first, second, *roots, [*proof, other])
    assert not merkle.verify_consistency(second + 1, second, *roots, proof)
    assert not merkle.verify_consistency(first, 2 * second, *roots, proof)
    assert not merkle.verify_consistency(0, second, *roots, proof)
    for place in range(len(proof)):
        changed = [*proof[:place], other, *proof[place + 1 :]]
        assert not merkle.verify_consistency(first, second, *roots, changed)
        shorter = proof[:place] + proof[place + 1 :]
        assert not merkle.verify_consistency(first, second, *roots, shorter)


@given(sizes(), st.data())
def test_a_rewritten_entry_has_no_proof(pair: tuple[int, int], data: st.DataObject) -> None:
    """Whoever rewrites an entry and builds the whole tree anew cannot prove consistency."""
    first, second = pair
    rewritten = entries_of(second)
    rewritten[data.draw(st.integers(0, first - 1))] = b"something else"
    read = stored(rewritten)
    proof = merkle.consistency_proof(first, second, read)
    assert not merkle.verify_consistency(
        first, second, merkle.root(first, LOG), merkle.root(second, read), proof
    )


def test_proofs_that_cannot_be() -> None:
    for index, size in ((0, 0), (-1, 3), (3, 3)):
        with pytest.raises(ValueError, match="not among"):
            merkle.inclusion_proof(index, size, LOG)
    for first, second in ((0, 3), (4, 3), (-1, 3)):
        with pytest.raises(ValueError, match="no proof"):
            merkle.consistency_proof(first, second, LOG)


def test_a_tree_grows_by_its_edge() -> None:
    tree = merkle.Tree()
    for size, entry in enumerate(entries_of(LARGEST)):
        assert tree.size == size
        assert tree.root() == merkle.root(size, LOG)
        for level, position, value in tree.append(merkle.leaf_hash(entry)):
            assert value == LOG(level, position)
