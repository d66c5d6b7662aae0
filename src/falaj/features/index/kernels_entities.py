"""Compiled hash tables: the dense number of an integer, and of a text.

A table is (size, 2) int64, a power of two of slots that are at most half full, probed one
after the other; a slot holds (key, number), and -1 as the number of an empty slot. For
texts the key is a 64-bit hash, and the bytes of the numbered text decide.
"""

from __future__ import annotations

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.kernels import compiled

_MIX = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


@compiled
def slot_of(key: int, shift: np.uint64) -> np.int64:
    """The first slot of a key: the highest bits of a product (Knuth, section 6.4)."""
    mixed = np.uint64(key) * _MIX
    mixed = (mixed ^ (mixed >> _HALF)) * _FOLD
    return np.int64(mixed >> shift)


@compiled
def number_ints(
    keys: Ints,
    valid: Array,
    begin: int,
    table: Ints,
    shift: np.uint64,
    known: Ints,
    n_known: int,
    codes: Ints,
) -> tuple[int, int]:
    """Number keys in the order of their first occurrence, as long as there is room.

    Args:
        keys, valid: (n,) keys, and whether each is one.
        begin: the first that has no code yet.
        table: holds the keys that are known; it is filled.
        known: (capacity,) the keys by number; it is filled.
        n_known: how many are known already.
        codes: (n,) is filled with the number of each key, -1 without one.

    Returns:
        The first key that has no code yet (n if all have), and how many are known.
    """
    mask = len(table) - 1
    for i in range(begin, len(keys)):
        if not valid[i]:
            codes[i] = -1
            continue
        key = keys[i]
        slot = slot_of(key, shift)
        while table[slot, 1] >= 0 and table[slot, 0] != key:
            slot = (slot + 1) & mask
        if table[slot, 1] < 0:
            if n_known == len(known):
                return i, n_known
            table[slot, 0] = key
            table[slot, 1] = n_known
            known[n_known] = key
            n_known += 1
        codes[i] = table[slot, 1]
    return len(keys), n_known


@compiled
def find_ints(keys: Ints, valid: Array, table: Ints, shift: np.uint64, codes: Ints) -> None:
    """``codes[i]`` becomes the number of ``keys[i]``, -1 if it has none or is not valid."""
    mask = len(table) - 1
    for i in range(len(keys)):
        codes[i] = -1
        if valid[i]:
            slot = slot_of(keys[i], shift)
            while table[slot, 1] >= 0 and table[slot, 0] != keys[i]:
                slot = (slot + 1) & mask
            codes[i] = table[slot, 1]


@compiled
def hash_texts(offsets: Array, data: Array, hashes: Ints) -> None:
    """A 64-bit hash of each text, ``data[offsets[i] : offsets[i + 1]]``."""
    for i in range(len(hashes)):
        mixed = np.uint64(offsets[i + 1] - offsets[i])
        word = np.uint64(0)
        n_bytes = 0
        for at in range(offsets[i], offsets[i + 1]):
            word = (word << np.uint64(8)) | np.uint64(data[at])
            n_bytes += 1
            if n_bytes == 8:
                mixed = (mixed ^ word) * _MIX
                mixed = (mixed ^ (mixed >> _HALF)) * _FOLD
                word = np.uint64(0)
                n_bytes = 0
        mixed = (mixed ^ word) * _MIX
        mixed = (mixed ^ (mixed >> _HALF)) * _FOLD
        hashes[i] = np.int64(mixed ^ (mixed >> _HALF))


@compiled
def find_texts(
    hashes: Ints,
    valid: Array,
    offsets: Array,
    data: Array,
    table: Ints,
    shift: np.uint64,
    known_offsets: Array,
    known_data: Array,
    codes: Ints,
) -> None:
    """``codes[i]`` becomes the number of the i-th text, -1 if it has none or is not valid."""
    mask = len(table) - 1
    for i in range(len(hashes)):
        codes[i] = -1
        if not valid[i]:
            continue
        begin, length = offsets[i], offsets[i + 1] - offsets[i]
        slot = slot_of(hashes[i], shift)
        while table[slot, 1] >= 0:
            if table[slot, 0] == hashes[i]:
                number = table[slot, 1]
                there = known_offsets[number]
                same = known_offsets[number + 1] - there == length
                place = 0
                while same and place < length:
                    same = known_data[there + place] == data[begin + place]
                    place += 1
                if same:
                    codes[i] = number
                    break
            slot = (slot + 1) & mask


@compiled
def place(keys: Ints, table: Ints, shift: np.uint64) -> None:
    """Put keys (or the hashes of different texts) into an empty table, as they are numbered."""
    mask = len(table) - 1
    for number in range(len(keys)):
        slot = slot_of(keys[number], shift)
        while table[slot, 1] >= 0:
            slot = (slot + 1) & mask
        table[slot, 0] = keys[number]
        table[slot, 1] = number
