"""Predictions joined with labels that arrive late, by period and group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.personal import rule_of
from falaj.lake.ports import Lake
from falaj.monitoring.answered import answered
from falaj.monitoring.crossfitted import Matrix
from falaj.monitoring.expected import Vector
from falaj.monitoring.model import Labels, NoPredictions, Period
from falaj.monitoring.multiclass import class_shares
from falaj.monitoring.performancewords import Slice
from falaj.serving.names import table_of
from falaj.training.encoding import Encoding
from falaj.training.targets import Task

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = "(missing)"
MOST_GROUPS = 20
_FEWEST_NUMBERS = 12
_LONGEST = 80
_NUMBERS = ("bool", "int", "uint", "float", "double", "halffloat", "decimal")


@dataclass(frozen=True)
class Inputs:
    """What the model that serves reads, by which a slice finds an input in the log."""

    model: str
    version: int
    encoding: Encoding


Version = tuple[str, int]
"""A model and its version."""
InputsOf = Callable[[str], Inputs]
"""Of an endpoint's active release; raises Conflict if it serves nothing."""


@dataclass(frozen=True)
class Joined:
    """Predictions, a row each.

    Attributes:
        period: the first instant of the period, in microseconds.
        score: finite or not; of classes, the probability of the likeliest one.
        label: as its task says (of classes, the place of one); NaN if it is not known.
        delay: seconds from the prediction to its first label; NaN if it is not known.
        group: the place of its group in ``groups``, -1 if that is none of them.
        groups: the names of the groups, by number or size.
        shares: the probabilities of the classes, (rows, classes); of classes alone.
    """

    period: Vector
    score: Vector
    label: Vector
    delay: Vector
    group: NDArray[np.int64]
    groups: tuple[str, ...] = ()
    shares: Matrix | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def known(self) -> NDArray[np.bool_]:
        """The rows that say something: with a label and a finite score."""
        return np.asarray(~np.isnan(self.label) & np.isfinite(self.score))

    def chosen(self, rows: Any) -> Joined:
        """Some of the rows."""
        return replace(
            self,
            period=self.period[rows],
            score=self.score[rows],
            label=self.label[rows],
            delay=self.delay[rows],
            group=self.group[rows],
            shares=None if self.shares is None else self.shares[rows],
        )

    def by_period(self) -> list[tuple[datetime, Joined]]:
        """The rows of each period that has any, in order."""
        return [
            (instant(start), self.chosen(self.period == start)) for start in np.unique(self.period)
        ]

    def by_group(self) -> list[tuple[str, Joined]]:
        """The rows of each group."""
        return [(name, self.chosen(self.group == place)) for place, name in enumerate(self.groups)]


class Joins:
    """Reads the prediction log and label tables.

    Args:
        lake: holds both.
        inputs_of: what an endpoint's model reads; None if no slice is by an input.
    """

    def __init__(self, lake: Lake, inputs_of: InputsOf | None = None) -> None:
        self._lake = lake
        self._inputs_of = inputs_of

    def joined(
        self,
        endpoint: str,
        labels: Labels | None,
        since: datetime,
        until: datetime,
        by: Period,
        cut: Slice | None = None,
        version: Version | None = None,
        *,
        tasks: tuple[Task, ...] = ("binary",),
        classes: tuple[str, ...] | None = None,
    ) -> Joined:
        """The predictions about [since, until), each with the label that was recorded last.

        A label that is null or NaN is none: what was recorded before it stays.

        Args:
            labels: where they arrive; None for predictions alone.
            cut: by what rows are put into groups.
            version: whose predictions; all if left out.
            tasks: what kinds of labels are of use here.
            classes: without labels, read the probabilities of these classes (of any, if empty).

        Raises:
            NoPredictions: there are none in the window.
            NotFound: there is no label table.
            InvalidInput: a label is not of its task, that is of no use here, or a column is
                missing.
        """
        window = (since, until)
        task = check_task(labels, tasks)
        if labels is not None and task == "classes":
            classes = labels.classes
        expression, bound, extra = self._sliced(endpoint, cut)
        if classes is not None:
            expression, extra = f"p.outputs, {expression}", (*extra, "outputs")
        if labels is not None and labels.classes:
            bound = {**bound, "classes": list(labels.classes)}
        ends = "ORDER BY p.prediction_id"
        found = self._found(
            endpoint, labels, window, by, cut, version, f"{expression} AS slice", extra, ends, bound
        )
        period, score, label, delay = _read(found)
        shares = None
        if classes is not None:
            shares = class_shares(found.column("outputs"), classes)
            score = shares.max(axis=1)
        _check_values(label, task, 0 if shares is None else shares.shape[1])
        places, names = (np.full(len(score), -1), ()) if cut is None else grouped(
            found.column("slice"), cut, self._words(endpoint, cut)
        )  # fmt: skip
        return Joined(period, score, label, delay, places, names, shares)

    def sampled(
        self,
        endpoint: str,
        labels: Labels | None,
        since: datetime,
        until: datetime,
        by: Period,
        version: Version,
        most: int,
        *,
        tasks: tuple[Task, ...] = ("binary",),
    ) -> tuple[Joined, NDArray[np.float32]]:
        """A sample of each period's predictions of a version, with what the model read.

        Args:
            most: rows of a period at most; which ones follows from their ids.

        Returns:
            the rows, and their inputs of shape (rows, inputs), NaN where one is missing.

        Raises:
            as ``joined``.
        """
        task = check_task(labels, tasks)
        ends = (
            "AND p.features IS NOT NULL QUALIFY row_number() OVER (PARTITION BY period "
            "ORDER BY hash(p.prediction_id), p.prediction_id) <= $most ORDER BY p.prediction_id"
        )
        found = self._found(
            endpoint, labels, (since, until), by, None, version, "p.features", ("features",), ends,
            {"most": most},
        )  # fmt: skip
        period, score, label, delay = _read(found)
        _check_values(label, task, 0)
        values = found.column("features").combine_chunks().flatten()
        matrix = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)
        none = np.full(len(score), -1)
        return Joined(period, score, label, delay, none), matrix.reshape(len(score), -1)

    def _found(
        self,
        endpoint: str,
        labels: Labels | None,
        window: tuple[datetime, datetime],
        by: Period,
        cut: Slice | None,
        version: Version | None,
        expression: str,
        extra: tuple[str, ...],
        ends: str,
        bound: dict[str, Any],
    ) -> pa.Table:
        """Period, score, label, delay and one more expression of each prediction."""
        table = table_of(endpoint)
        self._check_logged(endpoint, table)
        if labels is not None:
            self._check_labels(labels, cut)
        elif cut is not None and cut.of == "label":
            raise InvalidInput(
                f"A slice by {cut.by!r} of the label table needs one.",
                hint="Name the label table, or slice by a request field.",
            )
        opened: dict[str, pa.Table] = {}
        bound = {**bound, "since": window[0], "until": window[1]}
        where = "predicted_for >= $since AND predicted_for < $until"
        on = None if labels is None else labels.on
        names = ["prediction_id", "predicted_for", "score", on, *extra]
        if version is not None:
            where += " AND model = $of_model AND version = $of_version"
            bound |= {"of_model": version[0], "of_version": version[1]}
            names += ["model", "version"]
        told, read = answered(self._lake, table)
        where += f" AND {told}"
        names += read
        used = {name: bound[name] for name in bound if f"${name}" in where}
        logged = self._named(opened, "logged", table, names, where, used)
        truths, join = self._truths(opened, labels, cut)
        found = self._lake.query(
            f"""
            WITH truths AS ({truths}),
            rows_of AS (SELECT * FROM {logged} WHERE {where})
            SELECT epoch_us(date_trunc('{by}', p.predicted_for AT TIME ZONE 'UTC')) AS period,
                   p.score, t.label,
                   (epoch_us(t.known_at) - epoch_us(p.predicted_for)) / 1e6 AS delay,
                   {expression}
            FROM rows_of p {join} WHERE TRUE {ends}
            """,
            parameters=bound,
            inputs=opened,
        )
        if not found.num_rows:
            of = "" if version is None else f" of {version[0]}/{version[1]}"
            raise NoPredictions(
                f"{endpoint!r} has no logged predictions{of} between {window[0]:%Y-%m-%d} and "
                f"{window[1]:%Y-%m-%d}.",
                hint="Ask for another window.",
            )
        return found

    def _truths(
        self, opened: dict[str, pa.Table], labels: Labels | None, cut: Slice | None
    ) -> tuple[str, str]:
        """The query of the labels by key, and how predictions join them."""
        if labels is None:
            none = "SELECT NULL::DOUBLE AS label, NULL::TIMESTAMPTZ AS known_at, NULL AS extra"
            return none, "LEFT JOIN truths t ON FALSE"
        key, at = labels.key or labels.on, labels.recorded_at
        extra = cut.by if cut is not None and cut.of == "label" else None
        named = self._named(opened, "labelled", labels.table, (key, labels.label, at, extra))
        latest = f'"{at}" DESC, ' if at else ""
        known_at = f'min("{at}") OVER (PARTITION BY "{key}")' if at else "NULL::TIMESTAMPTZ"
        value = f'CAST("{labels.label}" AS DOUBLE)'
        if labels.classes:  # a word that is none of them becomes -1, which is refused
            place = f'list_position($classes, CAST("{labels.label}" AS VARCHAR))'
            value = f"CAST(coalesce({place}, 0) - 1 AS DOUBLE)"
        told = f'CAST("{extra}" AS VARCHAR)' if extra else "NULL"
        truths = f"""
            SELECT CAST("{key}" AS VARCHAR) AS key, {value} AS label, {known_at} AS known_at,
                   {told} AS extra
            FROM {named} WHERE "{labels.label}" IS NOT NULL AND NOT isnan({value})
            QUALIFY row_number() OVER (PARTITION BY "{key}" ORDER BY {latest}label DESC) = 1
        """
        return truths, f"LEFT JOIN truths t ON p.{labels.on} = t.key"

    def _sliced(
        self, endpoint: str, cut: Slice | None
    ) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """An SQL expression of the group's value, its parameters, and columns of the log."""
        if cut is None:
            return "NULL", {}, ()
        if cut.of == "field":
            told = f"left(json_extract_string(p.fields, $path), {_LONGEST})"
            return told, {"path": f'$."{cut.by}"'}, ("fields",)
        if cut.of == "label":
            return f"left(t.extra, {_LONGEST})", {}, ()
        if cut.of == "log":
            return f'CAST(p."{cut.by}" AS VARCHAR)', {}, (cut.by,)
        inputs = self._inputs(endpoint)
        if cut.by not in inputs.encoding.names:
            raise InvalidInput(
                f"The model of {endpoint!r} has no input {cut.by!r}.",
                hint=f"It reads: {', '.join(inputs.encoding.names)}.",
            )
        place = inputs.encoding.names.index(cut.by) + 1
        own = "p.model = $model AND p.version = $version"
        bound = {"model": inputs.model, "version": inputs.version}
        told = f"CASE WHEN {own} THEN CAST(p.features[{place}] AS DOUBLE) END"
        return told, bound, ("features", "model", "version")

    def _words(self, endpoint: str, cut: Slice) -> tuple[str, ...]:
        """The words that numbers of a sliced input stand for."""
        if cut.of != "input":
            return ()
        encoding = self._inputs(endpoint).encoding
        return encoding.features[encoding.names.index(cut.by)].categories

    def _inputs(self, endpoint: str) -> Inputs:
        if self._inputs_of is None:
            raise InvalidInput("Inputs are not known here.", hint="Slice by a request field.")
        return self._inputs_of(endpoint)

    def _check_logged(self, endpoint: str, table: str) -> None:
        if not self._lake.exists(table):
            raise NoPredictions(
                f"{endpoint!r} has no logged predictions: there is no table {table!r} yet.",
                hint="Fresh predictions reach the log within seconds.",
            )

    def _check_there(self, table: str, told: str) -> None:
        if not self._lake.exists(table):
            raise NotFound(
                f"There is no {told} {table!r} in the lake yet.",
                hint="`falaj tables list` shows what there is.",
            )

    def _check_labels(self, labels: Labels, cut: Slice | None) -> None:
        self._check_there(labels.table, "label table")
        schema = self._lake.schema(labels.table)
        extra = cut.by if cut is not None and cut.of == "label" else None
        for column in filter(
            None, (labels.key or labels.on, labels.label, labels.recorded_at, extra)
        ):
            if column not in schema.names:
                raise InvalidInput(
                    f"The label table {labels.table!r} has no column {column!r}.",
                    hint=f"It has: {', '.join(sorted(schema.names))}.",
                )
        kind = str(schema.field(labels.label).type)
        if not labels.classes and not kind.startswith(_NUMBERS):
            raise InvalidInput(
                f"The labels in {labels.table}.{labels.label} are of the type {kind}.",
                hint=_WANTED[labels.task],
            )
        if labels.recorded_at is not None:
            told = str(schema.field(labels.recorded_at).type)
            if not told.startswith("timestamp"):
                raise InvalidInput(
                    f"{labels.table}.{labels.recorded_at} is of the type {told}, no instant.",
                    hint="Name the column that tells when a label became known.",
                )

    def _named(
        self,
        opened: dict[str, pa.Table],
        name: str,
        table: str,
        columns: Sequence[str | None],
        where: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """What a query calls a table: SQL sees nothing of sealed columns, so those are opened."""
        if rule_of(self._lake, table) is None:
            return table
        wanted = list(dict.fromkeys(column for column in columns if column is not None))
        opened[name] = self._lake.scan(table, columns=wanted, where=where, parameters=parameters)
        return name


def grouped(
    column: Any, cut: Slice, words: tuple[str, ...] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The group of each value, and the groups' names.

    At most 20 groups: the largest; rows of all others belong to none (-1). Numbers are cut at
    the slice's edges; without them, if there are more than 12, into quarters of the rows.

    Args:
        column: values of any type, null where there is none.
        words: what whole numbers stand for.
    """
    numbers = _as_numbers(column)
    if words and numbers is not None:
        texts = np.array([*words, MISSING], dtype=object)
        places = np.where(np.isfinite(numbers), np.clip(numbers, 0, len(words)), len(words))
        return _by_size(texts[np.minimum(places, len(words)).astype(np.int64)])
    if numbers is None:
        if cut.edges:
            raise InvalidInput(
                f"{cut.by!r} has values that are no numbers, so that edges cut nothing.",
                hint="Leave the edges out.",
            )
        return _by_size(np.array(column.fill_null(MISSING).to_pylist(), dtype=object))
    known = numbers[~np.isnan(numbers)]
    edges = np.array(cut.edges)
    if not len(edges):
        if len(np.unique(known)) <= _FEWEST_NUMBERS:
            told = [MISSING if np.isnan(one) else f"{one:g}" for one in numbers.tolist()]
            return _by_size(np.array(told, dtype=object))
        edges = np.unique(np.quantile(known, (0.25, 0.5, 0.75), method="inverted_cdf"))
    places = np.searchsorted(edges, numbers, side="right")
    places[np.isnan(numbers)] = len(edges) + 1
    ends = [f"{one:g}" for one in edges]
    names = [f"< {ends[0]}"]
    names += [f"{a} to {b}" for a, b in pairwise(ends)]
    names += [f">= {ends[-1]}", MISSING]
    used = np.unique(places)
    where = np.searchsorted(used, places)
    return where.astype(np.int64), tuple(names[place] for place in used)


def instant(microseconds: float) -> datetime:
    """The instant, in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def _by_size(texts: NDArray[np.object_]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names, places, counts = np.unique(texts.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_GROUPS]
    rank = np.full(len(names), -1)
    rank[order] = np.arange(len(order))
    return rank[places.reshape(-1)].astype(np.int64), tuple(str(names[one]) for one in order)


def _as_numbers(column: Any) -> Vector | None:
    """The values as numbers, NaN where there is none; None if one is no number."""
    import pyarrow as pa

    if pa.types.is_null(column.type):
        return None
    try:
        told = column.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    return np.asarray(told.to_numpy(), dtype=np.float64)


def _read(found: pa.Table) -> tuple[Vector, Vector, Vector, Vector]:
    """Periods, scores, labels and delays."""
    return (
        _numbers(found, "period"),
        _numbers(found, "score"),
        _numbers(found, "label"),
        _numbers(found, "delay"),
    )


_WANTED: dict[Task, str] = {
    "binary": "Give a boolean column, or 0 and 1; null while the label is not known. Of numbers "
    "say that the task is `regression`, of several classes `classes`.",
    "regression": "Give a column of finite numbers; null while the label is not known.",
    "classes": "Name all classes in the order of the outputs, or give their places, from 0 on; "
    "null while the label is not known.",
}


def check_task(labels: Labels | None, tasks: tuple[Task, ...]) -> Task:
    """The task of labels; raises InvalidInput if it is none of those that are of use."""
    task: Task = "binary" if labels is None else labels.task
    if task not in tasks and labels is not None:
        told = {"binary": "0 and 1", "regression": "numbers", "classes": "classes"}
        raise InvalidInput(
            f"This is told from labels that are {' or '.join(told[one] for one in tasks)}; "
            f"those in {labels.table}.{labels.label} are said to be {told[task]}.",
            hint="Realised performance is told of all of them.",
        )
    return task


def _check_values(label: Vector, task: Task, n_classes: int) -> None:
    """Raise InvalidInput if a label that is known is not of its task."""
    known = label[~np.isnan(label)]
    if task == "binary" and not np.isin(known, (0.0, 1.0)).all():
        raise InvalidInput(
            "The label column holds values other than 0 and 1.", hint=_WANTED["binary"]
        )
    if task == "regression" and not np.isfinite(known).all():
        raise InvalidInput("The label column holds infinite values.", hint=_WANTED["regression"])
    if task == "classes" and not np.isin(known, np.arange(n_classes)).all():
        raise InvalidInput(
            f"The label column holds values that are none of the {n_classes} classes.",
            hint=_WANTED["classes"],
        )


def _numbers(found: pa.Table, name: str) -> Vector:
    return np.asarray(found.column(name).to_numpy(), dtype=np.float64)
