"""The Merkle tree of RFC 6962 (section 2.1): hashes, paths, and their verification.

``MTH({}) = SHA-256()``, ``leaf = SHA-256(0x00 || data)``, ``node = SHA-256(0x01 || left ||
right)``, split at the largest power of two below the size. Verification follows RFC 9162,
sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import TypeAlias

HASH_BYTES = 32
Subtree: TypeAlias = Callable[[int, int], bytes]
"""Gives the root over the leaves ``low <= index < high``."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf with that content."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that is needed to go on, in log(size) hashes.

    Args:
        size: how many leaves it covers.
        peaks: the roots of the perfect subtrees that ``size`` splits into, largest first.
    """

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count():
            raise ValueError(f"{len(peaks)} peaks do not make a tree of {size} leaves")
        self.size = size
        self.peaks = list(peaks)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes at the right."""
        peaks, size, rest = self.peaks, self.size, list(leaves)
        at = 0
        while at < len(rest):
            # The largest whole subtree that fits here, level by level.
            width = 1 << (len(rest) - at).bit_length() - 1
            width = min(width, size & -size) if size else width
            level = rest[at : at + width]
            while len(level) > 1:
                level = [
                    sha256(b"\1" + left + right).digest()
                    for left, right in zip(level[::2], level[1::2], strict=True)
                ]
            node, position = level[0], size // width
            while position & 1:
                node = sha256(b"\1" + peaks.pop() + node).digest()
                position >>= 1
            peaks.append(node)
            size += width
            at += width
        self.size = size

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self.peaks:
            return sha256().digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def ranges(self) -> dict[tuple[int, int], bytes]:
        """The peaks by the range of leaves that each covers."""
        found: dict[tuple[int, int], bytes] = {}
        low = 0
        for peak, bit in zip(self.peaks, _bits(self.size), strict=True):
            found[low, low + bit] = peak
            low += bit
        return found

    def encoded(self) -> bytes:
        """The peaks in one piece."""
        return b"".join(self.peaks)

    @classmethod
    def parse(cls, size: int, encoded: bytes) -> Frontier:
        """Read ``encoded`` back; raises ValueError if it does not fit the size."""
        if len(encoded) % HASH_BYTES:
            raise ValueError("the peaks are cut")
        steps = range(0, len(encoded), HASH_BYTES)
        return cls(size, [encoded[at : at + HASH_BYTES] for at in steps])


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The path from leaf ``index`` to the root of the first ``size`` leaves, leaf first."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(subtree(middle, high))
            high = middle
        else:
            path.append(subtree(low, middle))
            low = middle
    return path[::-1]


def consistency_path(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """The proof that the first ``old`` leaves begin the tree of ``new`` leaves."""
    if not 0 < old <= new:
        raise ValueError(f"no tree of {old} leaves begins one of {new}")
    path: list[bytes] = []
    low, high, whole = 0, new, True
    while old != high:  # until the old tree's edge is this subtree's edge
        middle = low + _split(high - low)
        if old <= middle:
            path.append(subtree(middle, high))
            high = middle
        else:
            path.append(subtree(low, middle))
            low, whole = middle, False
    if not whole:
        path.append(subtree(low, high))
    return path[::-1]


def includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """True if the path proves that ``leaf`` is leaf ``index`` of the tree with that root."""
    if not 0 <= index < size:
        return False
    node, position, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and node == root


def continues(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """True if the path proves that the tree ``old`` is the beginning of the tree ``new``."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not hashes:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _bits(size: int) -> list[int]:
    return [1 << bit for bit in range(size.bit_length() - 1, -1, -1) if size >> bit & 1]
