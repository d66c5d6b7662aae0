"""The inner loops that score tree ensembles; see ``masks`` and ``walks`` for the arrays.

Each kernel takes the rows, the place for the scores, and one model as a single block of
32-bit words, seen as integers and as floats: handing over an array costs 0.07 µs, so a
model is not a dozen of them. A block begins with a header (``Head``); places in it are
counted in words. Indices are unsigned, which spares the test for negative ones.

Sums are taken in float32 in the order of the trees, as ONNX Runtime takes them, so that
the sums are the same to the last bit. Comparisons are plain: no fast-math.

A kernel gives False, and scores nothing, where the rows have not the model's width.
Each has one signature: two processes that compile at once write the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.cpython.unsafe import numbers
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])
U = np.uintp
trailing_zeros: Any = numbers.trailing_zeros
_LANES = 16
_GREATEST = np.float32(np.finfo(np.float32).max)
"""Rows, or trees, that one vector instruction takes; LLVM splits it where it is too wide."""

# The header, in words.
(
    N_SCORES, TRANSFORM, DIVISOR, BASE, N_TREES, TREES, VALUES, N_COLUMNS, COLUMNS, STARTS,
    ENTRIES, N_GROUPS, GROUPS, BLOCK, ROWS, THRESHOLDS, EDGES, N_PADDED, NODES, GROUPED, N_FEATURES,
) = range(21)  # fmt: skip

_ROWS = types.Array(types.float32, 2, "C", readonly=True)
_SCORES = types.Array(types.float32, 2, "C")
_WORDS = types.Array(types.uint32, 1, "C")
_FLOATS = types.Array(types.float32, 1, "C")
_SIGNATURE = types.boolean(_ROWS, _SCORES, _WORDS, _FLOATS)
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _REALS = ir.VectorType(_I32, _LANES), ir.VectorType(_F32, _LANES)
_ALL = ir.Constant(_INTS, [0xFFFFFFFF] * _LANES)


def _kernel(function: F) -> F:
    """A kernel, kept between processes where numba finds a folder that it may write."""
    compiler: Any = numba.njit
    try:
        made: F = compiler(_SIGNATURE, cache=True, **_OPTIONS)(function)
    except RuntimeError:
        made = compiler(_SIGNATURE, **_OPTIONS)(function)
    return made


def _part(function: F) -> F:
    """A part of kernels, compiled with each of them."""
    compiler: Any = numba.njit
    made: F = compiler(**_OPTIONS)(function)
    return made


def _emitted(function: Callable[..., Any]) -> Any:
    """A part whose instructions are written down: loops over vectors held in registers."""
    maker: Any = intrinsic
    return maker(function)


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    view: Any = cgutils.create_struct_proxy
    return view(kind)(context, builder, array).data


def _splat(builder: Any, number: Any, kind: Any) -> Any:
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_I32, 0))
    places = ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES)
    return builder.shuffle_vector(first, nothing, places)


def _folded(builder: Any, low: Any, high: Any, step: Callable[[Any, Any], Any]) -> Any:
    """The vector that is all ones, put through ``step(place, vector)`` from low to high."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_unsigned("<", low, high), loop, after)
    builder.position_at_end(loop)
    place, vector = builder.phi(_I64), builder.phi(_INTS)
    place.add_incoming(low, before)
    vector.add_incoming(_ALL, before)
    stepped = step(place, vector)
    following = builder.add(place, ir.Constant(_I64, 1))
    place.add_incoming(following, loop)
    vector.add_incoming(stepped, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, high), loop, after)
    builder.position_at_end(after)
    folded = builder.phi(_INTS)
    folded.add_incoming(_ALL, before)
    folded.add_incoming(stepped, loop)
    return folded


@_emitted
def _left_by_entries(
    _: Any, words: Any, floats: Any, _low: Any, _high: Any, columns: Any, left: Any
) -> Any:
    """``left[0:16]``: the leaves that the entries [low, high) leave to each of 16 rows.

    An entry is three words (place of a column of 16 values, threshold, mask); where the
    value is greater than the threshold, only the leaves of the mask are left.
    """
    signature = types.void(words, floats, types.uint64, types.uint64, columns, left)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        ints, reals, _, _, values, out = (
            _data(context, builder, kind, one) if isinstance(kind, types.Array) else one
            for kind, one in zip(signature.args, given, strict=True)
        )

        def step(place: Any, vector: Any) -> Any:
            at = builder.mul(place, ir.Constant(_I64, 3))
            column = builder.zext(builder.load(builder.gep(ints, [at])), _I64)
            threshold = builder.load(builder.gep(reals, [builder.add(at, ir.Constant(_I64, 1))]))
            mask = builder.load(builder.gep(ints, [builder.add(at, ir.Constant(_I64, 2))]))
            source = builder.bitcast(builder.gep(values, [column]), _REALS.as_pointer())
            greater = builder.fcmp_ordered(
                ">", builder.load(source, align=4), _splat(builder, threshold, _REALS)
            )
            kept = builder.select(greater, _splat(builder, mask, _INTS), _ALL)
            return builder.and_(vector, kept)

        folded = _folded(builder, given[2], given[3], step)
        builder.store(folded, builder.bitcast(out, _INTS.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@_emitted
def _left_by_rows(_: Any, words: Any, rows: Any, _n: Any, _at: Any, left: Any) -> Any:
    """``left[at:at + 16]``: what all of n rows of masks, which begin at ``rows``, leave."""
    signature = types.void(words, rows, types.uint64, types.uint64, left)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        ints = _data(context, builder, signature.args[0], given[0])
        starts = _data(context, builder, signature.args[1], given[1])
        out = _data(context, builder, signature.args[4], given[4])
        shifted = builder.gep(ints, [given[3]])

        def step(place: Any, vector: Any) -> Any:
            start = builder.load(builder.gep(starts, [place]))
            source = builder.bitcast(builder.gep(shifted, [start]), _INTS.as_pointer())
            return builder.and_(vector, builder.load(source, align=4))

        folded = _folded(builder, ir.Constant(_I64, 0), given[2], step)
        target = builder.bitcast(builder.gep(out, [given[3]]), _INTS.as_pointer())
        builder.store(folded, target, align=4)
        return context.get_dummy_value()

    return signature, generate


@_part
def _logistic(x: Any) -> Any:
    one = np.float32(1)
    share = one / (one + np.exp(-np.abs(x)))
    return one - share if x < np.float32(0) else share


@_part
def _finished(scores: Any, words: Any, floats: Any) -> None:
    """Base values and transform, on the sums of one row, in place."""
    n, base, divisor = U(words[N_SCORES]), U(words[BASE]), floats[DIVISOR]
    for c in range(n):
        total = scores[U(c)]
        if divisor != np.float32(1):
            total = total / divisor
        scores[U(c)] = total + floats[base + U(c)]
    if words[TRANSFORM] == 1:
        for c in range(n):
            scores[U(c)] = _logistic(scores[U(c)])
    elif words[TRANSFORM] == 2:
        most = scores[0]
        for c in range(n):
            most = max(most, scores[U(c)])
        total = np.float32(0)
        for c in range(n):
            scores[U(c)] = np.exp(scores[U(c)] - most)
            total += scores[U(c)]
        for c in range(n):
            scores[U(c)] = scores[U(c)] / total


@_part
def _filled(row: Any, words: Any, columns: Any, lane: Any, step: Any) -> None:
    """The columns that the nodes ask for: a feature or its negative, NaN kept or made +inf.

    Where NaN is made +inf, +inf is made the greatest finite number, to be told from it.
    """
    table = U(words[COLUMNS])
    for c in range(words[N_COLUMNS]):
        kind = words[table + U(c)]
        x = row[U(kind >> np.uint32(2))]
        if kind & np.uint32(1):
            x = -x
        if kind & np.uint32(2):
            x = np.float32(np.inf) if np.isnan(x) else min(x, _GREATEST)
        columns[U(c) * step + lane] = x


@_part
def _summed(
    out: Any, left: Any, words: Any, floats: Any, n_trees: Any, n_scores: Any, trees: Any
) -> None:
    """What the first leaf that is left of each tree adds, in the order of the trees."""
    if n_scores == U(1):
        total = np.float32(0)
        for t in range(n_trees):
            values = U(words[trees + U(t) * U(3) + U(2)])
            total += floats[values + U(trailing_zeros(left[U(t)]))]
        out[0] = total
        return
    for c in range(n_scores):
        out[U(c)] = np.float32(0)
    for t in range(n_trees):
        about = trees + U(t) * U(3)
        first, width, values = U(words[about]), U(words[about + U(1)]), U(words[about + U(2)])
        leaf = values + U(trailing_zeros(left[U(t)])) * width
        for c in range(width):
            out[first + U(c)] += floats[leaf + U(c)]


@_part
def _added(
    scores: Any, left: Any, floats: Any, at: Any, m: Any, first: Any, width: Any, values: Any
) -> None:
    """What one tree adds to the scores of m rows."""
    for r in range(m):
        leaf = values + U(trailing_zeros(left[U(r)])) * width
        for c in range(width):
            scores[at + U(r), first + U(c)] += floats[leaf + U(c)]


@_part
def _next(words: Any, floats: Any, columns: Any, x: Any, at: Any) -> Any:
    yes = columns[x + U(words[at + U(1)])] > floats[at]
    return U(words[at + U(2)]) + (U(yes) << U(2))


@_part
def _eight(
    words: Any, floats: Any, columns: Any, x: Any, nodes: Any, about: Any, found: Any, mine: Any
) -> None:
    a, b = nodes + U(words[about]), nodes + U(words[about + U(3)])
    c, d = nodes + U(words[about + U(6)]), nodes + U(words[about + U(9)])
    e, f = nodes + U(words[about + U(12)]), nodes + U(words[about + U(15)])
    g, h = nodes + U(words[about + U(18)]), nodes + U(words[about + U(21)])
    for _ in range(words[about + U(22)]):
        a = nodes + _next(words, floats, columns, x, a)
        b = nodes + _next(words, floats, columns, x, b)
        c = nodes + _next(words, floats, columns, x, c)
        d = nodes + _next(words, floats, columns, x, d)
        e = nodes + _next(words, floats, columns, x, e)
        f = nodes + _next(words, floats, columns, x, f)
        g = nodes + _next(words, floats, columns, x, g)
        h = nodes + _next(words, floats, columns, x, h)
    found[mine + U(words[about + U(2)])] = words[a + U(3)]
    found[mine + U(words[about + U(5)])] = words[b + U(3)]
    found[mine + U(words[about + U(8)])] = words[c + U(3)]
    found[mine + U(words[about + U(11)])] = words[d + U(3)]
    found[mine + U(words[about + U(14)])] = words[e + U(3)]
    found[mine + U(words[about + U(17)])] = words[f + U(3)]
    found[mine + U(words[about + U(20)])] = words[g + U(3)]
    found[mine + U(words[about + U(23)])] = words[h + U(3)]


@_kernel
def scored_blocks(rows: Any, scores: Any, words: Any, floats: Any) -> bool:
    """Score many rows, 16 at a time, tree after tree, by masks.

    Every node of a tree is asked for all 16 rows at once; a "yes" takes the leaves below
    "no" away, and the first leaf that is left is the row's.
    """
    if U(rows.shape[1]) != U(words[N_FEATURES]):
        return False
    n, n_trees, n_scores = U(len(rows)), U(words[N_TREES]), U(words[N_SCORES])
    trees, starts, entries = U(words[TREES]), U(words[STARTS]), U(words[ENTRIES])
    asked, asked_floats = words[entries:], floats[entries:]
    columns = np.empty(words[N_COLUMNS] * np.uint32(16), np.float32)
    left, sums = np.empty(16, np.uint32), np.empty(16, np.float32)
    at = U(0)
    while at < n:
        m = min(U(16), n - at)
        for r in range(U(16)):
            _filled(rows[at + min(U(r), m - U(1))], words, columns, U(r), U(16))
        for r in range(m):
            for c in range(n_scores):
                scores[at + U(r), U(c)] = np.float32(0)
        sums[:] = np.float32(0)
        for t in range(n_trees):
            low, high = U(words[starts + U(t)]), U(words[starts + U(t) + U(1)])
            _left_by_entries(asked, asked_floats, low, high, columns, left)
            about = trees + U(t) * U(3)
            first, width, values = U(words[about]), U(words[about + U(1)]), U(words[about + U(2)])
            if n_scores == U(1):
                for r in range(U(16)):
                    sums[U(r)] += floats[values + U(trailing_zeros(left[U(r)]))]
            else:
                _added(scores, left, floats, at, m, first, width, values)
        for r in range(m):
            if n_scores == U(1):
                scores[at + U(r), 0] = sums[U(r)]
            _finished(scores[at + U(r)], words, floats)
        at += U(16)
    return True


@_kernel
def scored_few(rows: Any, scores: Any, words: Any, floats: Any) -> bool:
    """Score few rows, one after another, by masks that were joined beforehand.

    The thresholds of a feature are sorted and cut into blocks; for each block the masks
    of all smaller thresholds are joined already, for all trees. So a row takes one joined
    row of masks for each feature, and the few masks inside the block one by one.
    """
    if U(rows.shape[1]) != U(words[N_FEATURES]):
        return False
    n_trees, n_padded, n_scores = U(words[N_TREES]), U(words[N_PADDED]), U(words[N_SCORES])
    n_groups, groups, block = U(words[N_GROUPS]), U(words[GROUPS]), U(words[BLOCK])
    trees = U(words[TREES])
    left, joined = np.empty(n_padded, np.uint32), np.empty(n_groups * U(3), np.uint64)
    for i in range(len(rows)):
        row = rows[U(i)]
        for g in range(n_groups):
            about = groups + U(g) * U(6)
            x = row[U(words[about])]
            if words[about + U(1)]:
                x = -x
            edges, n_edges = U(words[about + U(2)]), U(words[about + U(3)])
            passed = np.uint32(0)
            for e in range(n_edges):
                passed += np.uint32(floats[edges + U(e)] < x)
            inside = U(words[about + U(4)]) + U(passed) * block
            more = np.uint32(0)
            for e in range(block):
                more += np.uint32(floats[inside + U(e)] < x)
            masks = U(words[about + U(5)])
            if np.isnan(x):
                joined[U(g)] = masks  # the first row is what NaN leaves
                more = np.uint32(0)
            else:
                joined[U(g)] = masks + (U(passed) + U(1)) * n_padded
            joined[n_groups + U(g)] = inside
            joined[U(2) * n_groups + U(g)] = U(more)
        for t in range(U(0), n_padded, U(16)):
            _left_by_rows(words, joined, n_groups, U(t), left)
        for g in range(n_groups):
            entry = U(words[ENTRIES]) + (joined[n_groups + U(g)] - U(words[THRESHOLDS])) * U(2)
            for e in range(joined[U(2) * n_groups + U(g)]):
                one = entry + U(e) * U(2)
                left[U(words[one])] &= words[one + U(1)]
        _summed(scores[U(i)], left, words, floats, n_trees, n_scores, trees)
        _finished(scores[U(i)], words, floats)
    return True


@_kernel
def scored_walks(rows: Any, scores: Any, words: Any, floats: Any) -> bool:
    """Score rows by walking from roots to leaves, eight trees of a row at a time.

    No step is a branch of the processor: the child for "yes" stands after the child for
    "no", and a leaf leads to itself, so that eight trees of like depth take as many steps
    as the deepest of them. Eight trees are walked for a block of rows, while their nodes
    are near.
    """
    if U(rows.shape[1]) != U(words[N_FEATURES]):
        return False
    n, n_trees, n_scores = U(len(rows)), U(words[N_TREES]), U(words[N_SCORES])
    n_columns, nodes, grouped = U(words[N_COLUMNS]), U(words[NODES]), U(words[GROUPED])
    trees = U(words[TREES])
    most = min(n, U(16))
    columns = np.empty(most * n_columns, np.float32)
    found = np.empty(most * n_trees, np.uint32)
    at = U(0)
    while at < n:
        m = min(most, n - at)
        for r in range(m):
            _filled(rows[at + U(r)], words, columns, U(r) * n_columns, U(1))
        t = U(0)
        while t + U(8) <= n_trees:
            for r in range(m):
                _eight(words, floats, columns, U(r) * n_columns, nodes, grouped + t * U(3),
                       found, U(r) * n_trees)  # fmt: skip
            t += U(8)
        while t < n_trees:
            about = grouped + t * U(3)
            for r in range(m):
                x = U(r) * n_columns
                a = nodes + U(words[about])
                for _ in range(words[about + U(1)]):
                    a = nodes + _next(words, floats, columns, x, a)
                found[U(r) * n_trees + U(words[about + U(2)])] = words[a + U(3)]
            t += U(1)
        for r in range(m):
            out, mine = scores[at + U(r)], U(r) * n_trees
            for c in range(n_scores):
                out[U(c)] = np.float32(0)
            for t_ in range(n_trees):
                values = U(found[mine + U(t_)])
                about = trees + U(t_) * U(3)
                first = U(words[about])
                for c in range(words[about + U(1)]):
                    out[first + U(c)] += floats[values + U(c)]
            _finished(out, words, floats)
        at += U(16)
    return True
