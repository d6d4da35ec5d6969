"""The append-only Merkle tree of RFC 9162, section 2.1, with SHA-256: roots and proofs.

A tree of n leaves is read through ``Read``, which knows the hashes of its complete subtrees: the
node (level, position) covers the leaves from position * 2**level to (position + 1) * 2**level.
Such a node never changes once it is complete, so that an append stores two of them on average,
and a root or a proof reads about as many as the tree is high.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import reduce

Read = Callable[[int, int], bytes]
"""The hash of the complete subtree at (level, position)."""

Node = tuple[int, int, bytes]
"""Level, position and hash of a complete subtree."""

EMPTY_ROOT = hashlib.sha256().digest()
"""The root of no leaves (section 2.1.1)."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf (section 2.1.1)."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees (section 2.1.1)."""
    return hashlib.sha256(b"\1" + left + right).digest()


def completed(index: int, leaf: bytes, read: Read) -> list[Node]:
    """The nodes that become complete when ``leaf`` (a hash) is appended as number ``index``."""
    nodes = [(0, index, leaf)]
    level = 0
    while index >> level & 1:
        position = index >> level
        leaf = node_hash(read(level, position - 1), leaf)
        level += 1
        nodes.append((level, position >> 1, leaf))
    return nodes


def _range_hash(start: int, end: int, read: Read) -> bytes:
    """MTH(D[start:end]) for a range that begins where its largest complete subtree may."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(read(level, start >> level))
        start += 1 << level
    return reduce(lambda right, left: node_hash(left, right), reversed(parts))


def _split(n: int) -> int:
    """The largest power of two smaller than ``n``."""
    return 1 << ((n - 1).bit_length() - 1)


def root(size: int, read: Read) -> bytes:
    """The root of the first ``size`` leaves (section 2.1.1)."""
    return _range_hash(0, size, read) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: Read) -> list[bytes]:
    """PATH(index, D[size]) (section 2.1.3.1). Raises ValueError unless index < size."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not among the first {size}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, read))
            end = middle
        else:
            path.append(_range_hash(start, middle, read))
            start = middle
    return path[::-1]


def consistency_proof(first: int, second: int, read: Read) -> list[bytes]:
    """PROOF(first, D[second]) (section 2.1.4.1); empty for equal sizes.

    Raises ValueError unless 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError(f"no proof leads from {first} leaves to {second}")
    path = []
    start, end = 0, second
    # Until the range is one that the first tree ends with, and ends where the first tree does.
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(_range_hash(middle, end, read))
            end = middle
        else:
            path.append(_range_hash(start, middle, read))
            start = middle
    if start:
        path.append(_range_hash(start, end, read))
    return path[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """Whether ``leaf`` (a hash) is number ``index`` in the tree (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether the tree of ``second`` leaves begins with that of ``first`` (section 2.1.4.2).

    For equal sizes, which the RFC leaves out, the path is empty and the roots are the same.
    """
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    if first & (first - 1) == 0:
        path = [first_root, *path]
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == second_root


class Tree:
    """A growing tree that keeps only the complete subtrees at its right edge: log n hashes."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: dict[int, Node] = {}

    def append(self, leaf: bytes) -> list[Node]:
        """Add the hash of a leaf; answers the nodes that this completed."""
        nodes = completed(self.size, leaf, self._read)
        self._edge |= {level: (level, position, value) for level, position, value in nodes}
        self.size += 1
        return nodes

    def root(self) -> bytes:
        """The root of all leaves so far."""
        return root(self.size, self._read)

    def _read(self, level: int, position: int) -> bytes:
        _, found, value = self._edge[level]
        assert found == position
        return value
