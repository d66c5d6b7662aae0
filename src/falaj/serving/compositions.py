"""Several models behind one endpoint: their mean, or one after the other.

A composition is compiled into one model with the inputs of all members, each once, so that
a request plan need not know of it. What a member gives to a later one (a chain) is no input
of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.serving.model import Combination, PinnedMember, ServableModel, Variant
from falaj.serving.widths import check_rows

if TYPE_CHECKING:
    from falaj.serving.ports import Bundles, LoadedModel

FORMAT = "composition"


def opened(bundles: Bundles, variant: Variant) -> ServableModel:
    """What a variant reads and gives; its bundle, or the bundles of all its members, verified.

    Raises:
        Corrupt, NotFound: as ``Bundles.open``.
        InvalidInput: the members do not fit together.
    """
    if not variant.members:
        return bundles.open(variant.bundle)
    return described(variant, [bundles.open(member.bundle) for member in variant.members])


def described(variant: Variant, models: Sequence[ServableModel]) -> ServableModel:
    """The members of a variant as one model, without its bytes.

    Raises:
        InvalidInput: a member gives several numbers, an input is a word for one member and
            a number for another, or a chain's output is an input of no later member.
    """
    inputs: list[str] = []
    categories: dict[str, tuple[str, ...]] = {}
    given: dict[str, str] = {}
    for member, model in zip(variant.members, models, strict=True):
        if len(model.outputs) != 1:
            raise InvalidInput(
                f"{member.label} gives {len(model.outputs)} numbers; a member gives one.",
                hint="Serve it by an endpoint of its own.",
            )
        for name in model.inputs:
            if name in given:
                given[name] = ""
                _check_number(name, model, member)
                continue
            words = model.categories.get(name)
            if name in inputs and (words is None) != (name not in categories):
                raise InvalidInput(
                    f"The input {name!r} is a word for one member and a number for another.",
                    hint="Compose models that were trained on the same features.",
                )
            if name not in inputs:
                inputs.append(name)
            if words is not None:
                known = categories.get(name, ())
                categories[name] = known + tuple(word for word in words if word not in known)
        if member.gives:
            if member.gives in inputs:
                raise InvalidInput(
                    f"{member.gives!r} is an input before {member.label} has given it.",
                    hint="Let `gives` name an input that only later members read.",
                )
            given[member.gives] = member.label
    unread = sorted(name for name, label in given.items() if label)
    if unread:
        raise InvalidInput(
            f"No later member reads {', '.join(unread)}.",
            hint="Let `gives` name an input of a later member.",
        )
    return ServableModel(
        FORMAT,
        b"",
        tuple(inputs),
        categories=categories,
        facts={"members": [member.label for member in variant.members]},
    )


def _check_number(name: str, model: ServableModel, member: PinnedMember) -> None:
    if name in model.categories:
        raise InvalidInput(
            f"{member.label} reads {name!r} as a word; another member gives it as a number.",
            hint="Chain models whose input is a number.",
        )


class ComposedModel:
    """The members of a variant as one loaded model; see ``LoadedModel``.

    Args:
        variant: whose members these are.
        whole: what ``described`` said of them.
        models: the members' descriptions.
        loaded: the members in memory.
    """

    def __init__(
        self,
        variant: Variant,
        whole: ServableModel,
        models: Sequence[ServableModel],
        loaded: Sequence[LoadedModel],
    ) -> None:
        self.n_inputs = len(whole.inputs)
        self.waits = any(getattr(one, "waits", False) for one in loaded)
        self._mean = variant.combine is not Combination.CHAIN
        members = variant.members
        total = sum(member.weight for member in members)
        self._weights = [member.weight / total for member in members]
        columns = {name: place for place, name in enumerate(whole.inputs)}
        for member in members:
            if member.gives:
                columns.setdefault(member.gives, len(columns))
        self._width = len(columns)
        self._gives = [columns.get(member.gives, -1) for member in members]
        self._members = [
            (one.run, np.array([columns[name] for name in model.inputs]), _words(whole, model))
            for one, model in zip(loaded, models, strict=True)
        ]

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """The weighted mean of the members, or what the last of a chain gives: [n, 1]."""
        known = self._known(rows)
        mean = np.zeros((len(rows), 1))
        last: NDArray[np.floating[Any]] = mean
        for (run, places, words), weight, gives in zip(
            self._members, self._weights, self._gives, strict=True
        ):
            last = run(_taken(known, places, words))
            if gives >= 0:
                known[:, gives] = last[:, 0]
            if self._mean:
                mean += weight * last
        return mean if self._mean else last

    def inputs_of_members(self, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What each member reads of rows, in its own order; in a chain those that give something
        are run for it."""
        known = self._known(rows)
        found = []
        for (run, places, words), gives in zip(self._members, self._gives, strict=True):
            found.append(_taken(known, places, words))
            if gives >= 0:
                known[:, gives] = run(found[-1])[:, 0]
        return found

    def _known(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows, with room for what members give to others."""
        check_rows(rows, self.n_inputs)
        if self._width == self.n_inputs:
            return rows
        known = np.empty((len(rows), self._width), dtype=np.float32)
        known[:, : self.n_inputs] = rows
        return known


def _taken(
    known: NDArray[np.float32], places: NDArray[np.intp], words: Mapping[int, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The inputs of a member: its columns, its words by its own list."""
    mine = known.take(places, 1)
    for column, table in words.items():
        mine[:, column] = _translated(mine[:, column], table)
    return mine


def _words(whole: ServableModel, model: ServableModel) -> Mapping[int, NDArray[np.float32]]:
    """For each column that is a word, the member's place of each word of the whole."""
    tables: dict[int, NDArray[np.float32]] = {}
    for column, name in enumerate(model.inputs):
        mine, all_words = model.categories.get(name), whole.categories.get(name)
        if mine is None or all_words is None or mine == all_words:
            continue
        places = {word: place for place, word in enumerate(mine)}
        tables[column] = np.array(
            [places.get(word, np.nan) for word in all_words], dtype=np.float32
        )
    return tables


def _translated(places: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places in the whole's list of words to places in a member's; NaN where it knows none."""
    known = np.isfinite(places)
    found = np.full(places.shape, np.nan, dtype=np.float32)
    found[known] = table[places[known].astype(np.intp)]
    return found
