"""LightGBM's model text, checked before the library reads it.

LightGBM trusts its own files: a child that does not exist or a tree that runs in a circle
is followed until the process dies. A model that comes from outside is therefore read here
first, as text, and refused where it is not a set of finite trees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from falaj.kernel.errors import Corrupt, InvalidInput

_TREES = "\nTree="
_END = "\nend of trees\n"
_MOST_COLUMNS = 100_000
_DIGITS = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_PLAIN = re.compile(r"[\x20-\x7e\n]*")
"""What a tree is written in. LightGBM ends lines at CR too, and reads numbers otherwise than
Python does (1_0 is 1): what two readers could take in two ways is refused."""


def checked(data: bytes) -> str:
    """The text of a whole model with finite trees.

    Raises:
        Corrupt: it is cut off, damaged, or would lead LightGBM out of its arrays.
        InvalidInput: it has linear leaves, which are not served.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _corrupt("it is not text") from None
    if not text.startswith("tree\n") or _END not in text or "\x00" in text or "\r" in text:
        raise _corrupt("it does not begin or end as such a text does")
    body = text[: text.index(_END) + 1]
    header, *blocks = body.split(_TREES)
    facts = _facts(header)
    n_columns = _whole(facts, "max_feature_idx") + 1
    if not 0 < n_columns <= _MOST_COLUMNS:
        raise _corrupt(f"it names {n_columns} columns")
    sizes = facts.get("tree_sizes")
    if sizes is not None:
        # LightGBM cuts the text by these numbers of bytes.
        told = [int(one) if _DIGITS.fullmatch(one) else -1 for one in sizes.split()]
        if told != _sizes(text[: text.index(_END)], len(blocks)):
            raise _corrupt("its trees are not as long as it says")
    for place, block in enumerate(blocks):
        _check_tree(place, f"Tree={block}", n_columns)
    per_row = _whole(facts, "num_tree_per_iteration")
    if per_row < 1 or not blocks or len(blocks) % per_row:
        raise _corrupt(f"{len(blocks)} trees are no multiple of {per_row} outputs")
    return text


def _sizes(body: str, n: int) -> list[int]:
    """The bytes of each tree as LightGBM counts them: up to the next tree."""
    places = [found.start() + 1 for found in re.finditer(_TREES, body)]
    ends = [*places[1:], len(body) + 1]
    if body.isascii():
        return [end - start for start, end in zip(places, ends, strict=True)][:n]
    return [len(body[start:end].encode()) for start, end in zip(places, ends, strict=True)][:n]


def _check_tree(place: int, block: str, n_columns: int) -> None:
    facts = _facts(block)
    if not _PLAIN.fullmatch(block) or any("_" in value for value in facts.values()):
        raise _corrupt(f"tree {place} is not plain text")
    n_leaves = _whole(facts, "num_leaves")
    if n_leaves < 1 or n_leaves > len(block):
        raise _corrupt(f"tree {place} names {n_leaves} leaves")
    if facts.get("is_linear", "0") != "0":
        raise InvalidInput(
            "The model has linear leaves, which are not served.",
            hint="Train without linear_tree.",
        )
    values = facts.get("leaf_value", "").split()
    if len(values) != n_leaves:
        raise _corrupt(f"tree {place} has {len(values)} values for {n_leaves} leaves")
    try:
        [float(value) for value in values]
    except ValueError:
        raise _corrupt(f"a leaf of tree {place} is no number") from None
    if n_leaves == 1:
        return
    n_nodes = n_leaves - 1
    columns = _numbers(facts, "split_feature", n_nodes)
    left, right = _numbers(facts, "left_child", n_nodes), _numbers(facts, "right_child", n_nodes)
    kinds = _numbers(facts, "decision_type", n_nodes)
    if any(not 0 <= column < n_columns for column in columns):
        raise _corrupt(f"tree {place} splits on a column that is not there")
    # A node's children come after it, and each node and leaf has one parent: so it ends.
    children = left + right
    if sorted(children) != sorted([*range(1, n_nodes), *range(-n_leaves, 0)]) or any(
        0 <= child <= node for node in range(n_nodes) for child in (left[node], right[node])
    ):
        raise _corrupt(f"tree {place} is not a tree")
    _check_splits(place, facts, kinds, n_nodes)


def _check_splits(place: int, facts: Mapping[str, str], kinds: list[int], n_nodes: int) -> None:
    thresholds = facts.get("threshold", "").split()
    if len(thresholds) != n_nodes:
        raise _corrupt(f"tree {place} lacks a threshold")
    n_words = _whole(facts, "num_cat") if "num_cat" in facts else 0
    if n_words:
        bounds = _numbers(facts, "cat_boundaries", n_words + 1)
        n_bits = len(facts.get("cat_threshold", "").split())
        if bounds[0] != 0 or bounds != sorted(bounds) or bounds[-1] > n_bits:
            raise _corrupt(f"tree {place} has sets of categories that are not there")
    for kind, threshold in zip(kinds, thresholds, strict=True):
        try:
            value = float(threshold)
        except ValueError:
            raise _corrupt(f"a threshold of tree {place} is no number") from None
        if kind & 1 and not 0 <= value < n_words:
            raise _corrupt(f"tree {place} has sets of categories that are not there")


def _facts(block: str) -> dict[str, str]:
    lines = [line.split("=", 1) for line in block.split("\n") if "=" in line]
    facts = dict(lines)
    if len(facts) != len(lines):
        raise _corrupt("it says something twice")
    return facts


def _whole(facts: Mapping[str, str], name: str) -> int:
    try:
        return _int(facts[name])
    except (KeyError, ValueError):
        raise _corrupt(f"it does not say {name}") from None


def _int(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _numbers(facts: Mapping[str, str], name: str, n: int) -> list[int]:
    try:
        found = [_int(one) for one in facts[name].split()]
    except (KeyError, ValueError):
        raise _corrupt(f"a tree does not say {name}") from None
    if len(found) != n:
        raise _corrupt(f"a tree says {len(found)} times {name}, not {n}")
    return found


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        f"The bytes are no LightGBM model: {why}.",
        hint="Write it again with Booster.save_model, as text.",
    )
