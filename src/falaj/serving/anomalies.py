"""How unlike the training rows a request's rows are: told when asked, or of every row as a tag.

What judges is the isolation forest in the bundle of the model, at the limit that was frozen
with it. A composition is judged by the forests of all its members, each of its own inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.serving.model import AnomalyPolicy

if TYPE_CHECKING:
    from falaj.models.isolation import IsolationForest
    from falaj.serving.compositions import ComposedModel
    from falaj.serving.model import Release, ServableModel, Variant

SCORE, ANOMALOUS = "anomaly_score", "anomalous"
"""What the tag is called where it is columns, or parameters."""


@dataclass(slots=True)
class Judged:
    """What was found of n rows."""

    scores: NDArray[np.float64]
    """(n,) between 0 and 1; about 0.5 is ordinary."""
    anomalous: NDArray[np.bool_]
    """(n,) True where the score is above the limit of its forest."""

    def only(self, places: Sequence[int]) -> Judged:
        """Some of the rows, by their places."""
        return Judged(self.scores[places], self.anomalous[places])

    def told(self) -> list[dict[str, float | bool]]:
        """Score and verdict of each row, JSON-ready."""
        return [
            {"score": score, "anomalous": anomalous}
            for score, anomalous in zip(self.scores.tolist(), self.anomalous.tolist(), strict=True)
        ]

    def texts(self) -> list[str]:
        """The tag of each row as it stands in a JSON answer, behind the outputs."""
        return [
            f',"anomaly":{{"score":{score!r},"anomalous":{"true" if anomalous else "false"}}}'
            for score, anomalous in zip(self.scores.tolist(), self.anomalous.tolist(), strict=True)
        ]

    def put(self, places: NDArray[np.int64], some: Judged) -> None:
        """Take what was found of some of the rows, by their places."""
        self.scores[places] = some.scores
        self.anomalous[places] = some.anomalous

    @classmethod
    def nothing(cls, n: int) -> Judged:
        """Of n rows, none of which was judged yet: NaN and False."""
        return cls(np.full(n, np.nan), np.zeros(n, np.bool_))

    def packed(self) -> bytes:
        """All scores (float64), then all verdicts (a byte each)."""
        return self.scores.tobytes() + self.anomalous.tobytes()


def tag_columns(release: Release) -> tuple[str, ...]:
    """The columns that the tag adds to the outputs of a release; none where it tags nothing."""
    return (SCORE, ANOMALOUS) if release.anomalies is AnomalyPolicy.TAG else ()


class Judge(Protocol):
    """Tells how unlike the training rows the inputs of a model are; safe on many threads."""

    def judged(self, matrix: NDArray[np.float32]) -> Judged:
        """Judge rows float32 [n, inputs]."""


class OwnForest:
    """The forest of one model. Fulfils ``Judge``."""

    def __init__(self, forest: IsolationForest) -> None:
        self._forest = forest

    def judged(self, matrix: NDArray[np.float32]) -> Judged:
        """See ``Judge.judged``."""
        scores = self._forest.scores(matrix)
        return Judged(scores, scores > self._forest.limit)


class MembersForests:
    """The forests of all members of a composition. Fulfils ``Judge``.

    A row is anomalous where it is to any of them; its score is that of the forest whose limit
    it exceeds by most, or falls short of by least. What a member of a chain gives to a later one
    is judged as any other input of that: to know it, all members but the last run once more.

    Args:
        model: says what each member reads.
        forests: of each member, in order.
    """

    def __init__(self, model: ComposedModel, forests: Sequence[IsolationForest]) -> None:
        self._model = model
        self._forests = forests

    def judged(self, matrix: NDArray[np.float32]) -> Judged:
        """See ``Judge.judged``."""
        inputs = self._model.inputs_of_members(matrix)
        scores = np.stack(
            [one.scores(rows) for one, rows in zip(self._forests, inputs, strict=True)]
        )
        beyond = scores - np.array([[one.limit] for one in self._forests])
        most = beyond.argmax(axis=0), np.arange(len(matrix))
        return Judged(scores[most], beyond[most] > 0)


def forest_of(model: ServableModel) -> IsolationForest | None:
    """The isolation forest of a model's bundle; None if it has none. Raises Corrupt."""
    if not model.isolation:
        return None
    from falaj.models.isolation import IsolationForest

    return IsolationForest.read(model.isolation, len(model.inputs))


def judge_of(models: Sequence[ServableModel], composed: ComposedModel | None) -> Judge | None:
    """What judges the inputs of a variant; None where a model of it has no forest.

    Args:
        models: its models, or the one.
        composed: the composition; None of one model alone.

    Raises:
        Corrupt: a forest cannot be read, or is of other inputs.
    """
    forests = [found for one in models if (found := forest_of(one)) is not None]
    if len(forests) < len(models):
        return None
    return OwnForest(forests[0]) if composed is None else MembersForests(composed, forests)


def check_tagged(release: Release, variant: Variant, models: Sequence[ServableModel]) -> None:
    """Return if a variant of a release can be served with the tag, where the release has it.

    Raises:
        InvalidInput: it has the tag, and a model of the variant has no forest.
    """
    if release.anomalies is not AnomalyPolicy.TAG:
        return
    lacking = [
        one.label for one, model in zip(variant.pinned, models, strict=True) if not model.isolation
    ]
    if lacking:
        raise InvalidInput(
            f"{release.endpoint!r} tags anomalies, and {', '.join(lacking)} was trained without an"
            " isolation forest.",
            hint='Train it with `isolation`, or declare the endpoint with anomalies="asked".',
        )


def warmed(judge: Judge | None, sample: tuple[tuple[float, ...], ...], n_inputs: int) -> None:
    """Judge once, of nobody: what a first row compiles and loads, no request waits for."""
    if judge is not None:
        judge.judged(np.array(sample[:1] or [[0.0] * n_inputs], dtype=np.float32))


def parameters(judged: Judged) -> dict[str, str]:
    """The tags of a request's rows as the parameters of an Open Inference answer: texts with
    commas between the rows, in their order, as the prediction ids are."""
    return {
        SCORE: ",".join(map(repr, judged.scores.tolist())),
        ANOMALOUS: ",".join("true" if one else "false" for one in judged.anomalous.tolist()),
    }
