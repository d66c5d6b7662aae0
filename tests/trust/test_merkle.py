"""The Merkle tree against RFC 6962's recursive definition and its published roots."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.trust.merkle import (
    Frontier,
    consistency_path,
    continues,
    includes,
    inclusion_path,
    leaf_hash,
    node_hash,
)

# The leaves and roots of the reference implementation of Certificate Transparency.
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
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def defined(leaves):
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(defined(leaves[:k]), defined(leaves[k:]))


def tree(size):
    leaves = [leaf_hash(number.to_bytes(4, "big")) for number in range(size)]
    return leaves, lambda low, high: defined(leaves[low:high])


def test_the_published_roots_of_rfc_6962_come_out():
    frontier = Frontier()
    assert frontier.root().hex() == ROOTS[0]
    for data, root in zip(LEAVES, ROOTS[1:], strict=True):
        frontier.extend([leaf_hash(data)])
        assert frontier.root().hex() == root


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70), st.integers(0, 70))
def test_a_frontier_gives_the_defined_root_and_goes_on_after_storage(leaves, cut):
    frontier = Frontier()
    frontier.extend(leaves[:cut])
    again = Frontier.parse(frontier.size, frontier.encoded())
    again.extend(leaves[cut:])
    assert again.root() == defined(leaves)
    for (low, high), peak in again.ranges().items():
        assert peak == defined(leaves[low:high])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 32, 33])
def test_every_leaf_has_a_path_that_proves_it_and_nothing_else(size):
    leaves, subtree = tree(size)
    root = defined(leaves)
    for index, leaf in enumerate(leaves):
        path = inclusion_path(index, size, subtree)
        assert includes(leaf, index, size, path, root)
        assert not includes(leaf_hash(b"x"), index, size, path, root)
        assert not includes(leaf, index, size, path, leaf_hash(b"x"))
        assert not includes(leaf, index, size, [*path, root], root)
        if path:
            assert not includes(leaf, index, size, path[:-1], root)
            assert not includes(leaf, index, size, [leaf_hash(b"x"), *path[1:]], root)
        for other in {(index + 1) % size, size, -1} - {index}:
            assert not includes(leaf, other, size, path, root)


@pytest.mark.parametrize("new", [1, 2, 3, 7, 8, 13, 32, 33])
def test_every_beginning_is_proven_and_no_other_tree_is(new):
    leaves, subtree = tree(new)
    root = defined(leaves)
    for old in range(1, new + 1):
        path = consistency_path(old, new, subtree)
        old_root = defined(leaves[:old])
        assert continues(old, old_root, new, root, path)
        assert not continues(old, leaf_hash(b"x"), new, root, path)
        assert not continues(old, old_root, new, leaf_hash(b"x"), path)
        assert not continues(old, old_root, new, root, [*path, root])
        if path:
            assert not continues(old, old_root, new, root, path[:-1])


def test_senseless_sizes_are_refused():
    _, subtree = tree(3)
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError):
            inclusion_path(index, size, subtree)
    for old, new in ((0, 3), (4, 3)):
        with pytest.raises(ValueError):
            consistency_path(old, new, subtree)
        assert not continues(old, b"", new, b"", [])
    assert not continues(3, b"", 5, b"", [])
    for size, encoded in ((1, b""), (3, bytes(33)), (-1, b""), (2, bytes(64))):
        with pytest.raises(ValueError):
            Frontier.parse(size, encoded)
