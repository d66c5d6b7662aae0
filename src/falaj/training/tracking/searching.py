"""Search for runs and experiments: by a filter, in an order, page by page, what may be seen.

An answer has *phases*. Where the first key of the order is a metric, its runs come from the
index of that metric, in order, so that the first of a hundred thousand cost no more than the
first of a hundred: those with a number, then those with NaN, then those without the metric.

Who may see a run is decided by the run's own attributes. Runs share them, so that the policy is
asked once for each set of them, unless a policy tells runs apart by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from falaj.catalog.attributes import resource_of
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Resource
from falaj.kernel.statements import Statement, marks
from falaj.training.model import DEFAULT_WORKSPACE, ExperimentPage, RunPage, Stage
from falaj.training.tracking import pagetokens
from falaj.training.tracking.conditions import Conditions, Sql
from falaj.training.tracking.experiments import COLUMNS as EXPERIMENT_COLUMNS
from falaj.training.tracking.filters import EXPERIMENTS, Clause, Kind, read_filter, read_order
from falaj.training.tracking.reading import COLUMNS, FROM, assembled
from falaj.training.tracking.texts import plain

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.training.tracking.experiments import Experiments

FEW = 2_000
"""A metric's filter that so few runs fit leads to them; else runs are looked through in order."""
MOST_HIDDEN = 100_000
"""A page ends after so many runs that its reader may not see, however few it holds."""
_CHUNK = 500
_NUMBERS, _NANS, _WITHOUT, _ALL = range(4)
_STAGES = {
    Stage.ACTIVE: "{}.deleted_at IS NULL",
    Stage.DELETED: "{}.deleted_at IS NOT NULL",
    Stage.ALL: "1 = 1",
}
_LAST_ID = Statement("SELECT MAX(id) FROM runs")
_LAST_EXPERIMENT = Statement("SELECT MAX(id) FROM experiments")
_ASSETS = ", ".join(f"a.{name}" for name in ("owner", "classification", "region", "attributes"))

Visible = Callable[[Call, Resource], bool]
Apart = Callable[[Call], bool]
"""True if a policy tells assets with the same attributes apart."""


@dataclass(frozen=True, slots=True)
class RunQuestion:
    """A search for runs, as it was asked; ``experiments`` are ids, all if there is none."""

    filter: str = ""
    order_by: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    stage: Stage = Stage.ACTIVE
    workspace: str = DEFAULT_WORKSPACE


@dataclass(frozen=True, slots=True)
class ExperimentQuestion:
    """A search for experiments, as it was asked."""

    filter: str = ""
    order_by: tuple[str, ...] = ()
    stage: Stage = Stage.ACTIVE
    workspace: str = DEFAULT_WORKSPACE


class Sight:
    """What of many assets a caller may see; asks the policy as seldom as that is right."""

    def __init__(self, visible: Visible, apart: Apart, call: Call, kind: str) -> None:
        self._visible, self._call, self._kind = visible, call, kind
        self._known: dict[tuple[Any, ...], bool] | None = None if apart(call) else {}

    def sees(self, key: str, asset: Sequence[Any]) -> bool:
        """True if the caller may know of the asset with these columns of its row."""
        ref = AssetRef(self._kind, key)
        owner = asset[0]
        resource = Resource(ref, exists=False) if owner is None else resource_of(ref, *asset)
        if self._known is None:
            return self._visible(self._call, resource)
        attributes = tuple(resource.attributes.items())
        seen = self._known.get(attributes)
        if seen is None:
            seen = self._known[attributes] = self._visible(self._call, resource)
        return seen


class RunSearch:
    """Finds runs.

    Args:
        visible: decides on one asset.
        apart: whether that must be asked for each asset.
    """

    def __init__(self, visible: Visible, apart: Apart) -> None:
        self._visible = visible
        self._apart = apart

    def page(
        self, call: Call, question: RunQuestion, *, limit: int, page: str | None = None
    ) -> RunPage:
        """At most ``limit`` runs, and where the next ones are.

        Raises:
            InvalidInput: the filter or the order cannot be read, or the token is not good.
        """
        asked = (question, call.principal.id)
        place, last, begun = [0, 0], "", call.now
        if page:
            (*place, last), begun = pagetokens.read(page, asked, call.now, 2, texts=1)
        query = _RunQuery(call.connection, question, last)
        if not 0 <= place[0] < len(query.phases) or place[1] < 0:
            raise InvalidInput("Invalid page token: it names no place.")
        rows, following = self._found(call, query, place, limit)
        token = None
        if following:
            last = last or _LAST_ID.all(call.connection)[0][0]
            token = pagetokens.written(asked, [*following, last], begun)
        return RunPage.model_construct(runs=assembled(call.connection, rows), next_page=token)

    def _found(
        self, call: Call, query: _RunQuery, place: list[int], limit: int
    ) -> tuple[list[tuple[Any, ...]], list[int] | None]:
        """The rows of a page, and the place behind it, or None at the end."""
        sight = Sight(self._visible, self._apart, call, "run")
        phase, offset = place
        found: list[tuple[Any, ...]] = []
        hidden = 0
        while phase < len(query.phases):
            wanted = max(limit - len(found), _CHUNK if hidden else 1)
            ids = query.ids(phase, offset, wanted + 1)
            more = len(ids) > wanted
            for run, row, asset in _detailed(call.connection, ids[:wanted]):
                if len(found) == limit or hidden >= MOST_HIDDEN:
                    return found, [phase, offset]
                offset += 1
                if sight.sees(run, asset):
                    found.append(row)
                else:
                    hidden += 1
            if not more:
                phase, offset = phase + 1, 0
            elif len(found) == limit:
                return found, [phase, offset]
            if len(found) == limit:
                break
        while phase < len(query.phases):
            if query.ids(phase, 0, 1):
                return found, [phase, 0]
            phase += 1
        return found, None


def _detailed(
    connection: Connection, ids: Sequence[str]
) -> list[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """Of each run: its id, its row, and the columns of its asset; in the order of the ids."""
    rows: dict[str, tuple[Any, ...]] = {}
    query = (
        f"SELECT {COLUMNS}, {_ASSETS} {FROM} LEFT JOIN catalog_assets a ON a.kind = 'run'"
        " AND a.key = r.id WHERE r.id "
    )
    if connection.dialect.name == "postgresql":  # one text for any number of runs
        rows = {row[0]: row for row in Statement(f"{query}= ANY(?)").all(connection, (list(ids),))}
        return [(run, rows[run][:-4], rows[run][-4:]) for run in ids]
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        listed = Statement(f"{query}IN ({marks(len(some))})")
        rows |= {row[0]: row for row in listed.all(connection, some)}
    return [(run, rows[run][:-4], rows[run][-4:]) for run in ids]


class _RunQuery:
    """The SQL of one search for runs."""

    def __init__(self, connection: Connection, question: RunQuestion, last: str) -> None:
        self._connection = connection
        self._postgresql = connection.dialect.name == "postgresql"
        self._conditions = Conditions(postgresql=self._postgresql)
        self._clauses = read_filter(question.filter)
        self._orders = read_order(question.order_by)
        first = self._orders[0] if self._orders else None
        self._metric = first if first is not None and first.kind is Kind.METRIC else None
        self.phases = [_ALL] if self._metric is None else [_NUMBERS, _NANS, _WITHOUT]
        self._of_metric = [
            clause
            for clause in self._clauses
            if self._metric and (clause.kind, clause.key) == (Kind.METRIC, self._metric.key)
        ]
        if self._of_metric:
            self.phases = [_NUMBERS, _NANS]
        self._where = [Sql("r.workspace = ?", [question.workspace])]
        self._where.append(Sql(_STAGES[question.stage].format("r")))
        if question.experiments:
            if not all(map(plain, question.experiments)):
                raise InvalidInput("The id of an experiment holds a NUL.")
            ids = list(question.experiments)
            self._where.append(Sql(f"r.experiment_id IN ({marks(len(ids))})", ids))
        if last:
            # Ids begin with their time: what was begun since the first page moves no later one.
            if not plain(last):
                raise InvalidInput("Invalid page token: it names no place.")
            self._where.append(Sql("r.id <= ?", [last]))
        others = [one for one in self._clauses if one not in self._of_metric]
        self._where += [self._conditions.of_run(one) for one in others]
        self._leader = None if self._metric or self._postgresql else self._leading(others)

    def ids(self, phase: int, offset: int, limit: int) -> list[str]:
        """The ids of runs of a phase, in order."""
        kind = self.phases[phase]
        begin, where, order = self._begun(kind)
        where = [*where, *self._where]
        text = (
            f"SELECT r.id {begin} WHERE {' AND '.join(one.text for one in where)}"
            f" ORDER BY {', '.join(one.text for one in order)} LIMIT ? OFFSET ?"
        )
        values = [value for one in (*where, *order) for value in one.values]
        rows = Statement(text).all(self._connection, [*values, limit, offset])
        return [row[0] for row in rows]

    def _begun(self, kind: int) -> tuple[str, list[Sql], list[Sql]]:
        """From where a phase reads, its own conditions, and its order."""
        order = [self._conditions.order_of_run(one) for one in self._orders]
        if not any((one.kind, one.key) == (Kind.ATTRIBUTE, "start_time") for one in self._orders):
            order.append(Sql("r.started_at DESC"))
        order.append(Sql("r.id"))
        where: list[Sql] = []
        begin = "FROM runs r"
        # SQLite takes the tables of a CROSS JOIN in the order in which they stand.
        join = "JOIN runs r ON" if self._postgresql else "CROSS JOIN runs r ON"
        if self._metric is None:
            if self._leader is not None:
                begin = f"FROM run_latest_metrics n {join} r.id = n.run_id"
                where = [Sql("n.key = ?", [self._leader.key]),
                         self._conditions.of_metric(self._leader, "n")]  # fmt: skip
        elif kind == _WITHOUT:
            where = [
                Sql(
                    "NOT EXISTS (SELECT 1 FROM run_latest_metrics n WHERE n.run_id = r.id"
                    " AND n.key = ?)",
                    [self._metric.key],
                )
            ]
            order = order[1:]
        else:
            begin = f"FROM run_latest_metrics n {join} r.id = n.run_id"
            nan = "TRUE" if kind == _NANS else "FALSE"
            where = [Sql(f"n.key = ? AND n.is_nan = {nan}", [self._metric.key])]
            where += [self._conditions.of_metric(one, "n") for one in self._of_metric]
            way = "ASC" if self._metric.ascending else "DESC"
            order = [Sql(f"n.value {way}"), *order[1:]]
        return begin, where, order

    def _leading(self, clauses: Sequence[Clause]) -> Clause | None:
        """A clause on a metric that few runs fit."""
        for clause in clauses:
            if clause.kind is Kind.METRIC and clause.operator != "!=":
                held = self._conditions.of_metric(clause, "n")
                count = Statement(
                    "SELECT COUNT(*) FROM (SELECT 1 FROM run_latest_metrics n WHERE n.key = ?"
                    f" AND {held.text} LIMIT {FEW}) AS some"
                ).first(self._connection, [clause.key, *held.values])
                if count is not None and count[0] < FEW:
                    return clause
        return None


class ExperimentSearch:
    """Finds experiments; arguments as for ``RunSearch``."""

    def __init__(self, experiments: Experiments, visible: Visible, apart: Apart) -> None:
        self._experiments = experiments
        self._visible = visible
        self._apart = apart

    def page(
        self, call: Call, question: ExperimentQuestion, *, limit: int, page: str | None = None
    ) -> ExperimentPage:
        """At most ``limit`` experiments, and where the next ones are; the newest first.

        Raises:
            InvalidInput: the filter or the order cannot be read, or the token is not good.
        """
        asked = (question, call.principal.id)
        offset, last, begun = 0, "", call.now
        if page:
            (offset, last), begun = pagetokens.read(page, asked, call.now, texts=1)
        if offset < 0 or not plain(last):
            raise InvalidInput("Invalid page token: it names no place.")
        if not last:  # before the rows are read: what is made after them must not be among them
            last = _LAST_EXPERIMENT.all(call.connection)[0][0] or ""
        text, values = _experiment_query(call.connection, question, last)
        sight = Sight(self._visible, self._apart, call, "experiment")
        found: list[tuple[Any, ...]] = []
        following: list[Any] | None = None
        for row in Statement(text).all(call.connection, values)[offset:]:
            if len(found) == limit:
                following = [offset, last]
                break
            offset += 1
            if sight.sees(row[0], row[-4:]):
                found.append(row[:-4])
        token = pagetokens.written(asked, following, begun) if following else None
        experiments = self._experiments.complete(call.connection, found)
        return ExperimentPage(experiments=experiments, next_page=token)

    def sees(self, call: Call, experiment: str, workspace: str | None) -> bool:
        """True if there is such an experiment in the workspace, and the caller may see it."""
        row = _ONE_EXPERIMENT.first(call.connection, (experiment,)) if plain(experiment) else None
        if row is None or workspace not in (None, row[0]):
            return False
        return Sight(self._visible, self._apart, call, "experiment").sees(experiment, row[1:])


_ONE_EXPERIMENT = Statement(
    f"SELECT e.workspace, {_ASSETS} FROM experiments e LEFT JOIN catalog_assets a"
    " ON a.kind = 'experiment' AND a.key = e.id WHERE e.id = ?"
)


def _experiment_query(
    connection: Connection, question: ExperimentQuestion, last: str
) -> tuple[str, list[Any]]:
    conditions = Conditions(postgresql=connection.dialect.name == "postgresql")
    where = [Sql("e.workspace = ?", [question.workspace]),
             Sql(_STAGES[question.stage].format("e")),
             # Ids begin with their time: what was made since the first page moves no later one.
             Sql("e.id <= ?", [last])]  # fmt: skip
    where += [conditions.of_experiment(one) for one in read_filter(question.filter, EXPERIMENTS)]
    orders = read_order(question.order_by, EXPERIMENTS)
    order = [conditions.order_of_experiment(one) for one in orders]
    order += [Sql("e.created_at DESC"), Sql("e.id DESC")]
    columns = ", ".join(f"e.{name}" for name in EXPERIMENT_COLUMNS.split(", "))
    text = (
        f"SELECT {columns}, {_ASSETS} FROM experiments e LEFT JOIN catalog_assets a"
        " ON a.kind = 'experiment' AND a.key = e.id"
        f" WHERE {' AND '.join(one.text for one in where)}"
        f" ORDER BY {', '.join(one.text for one in order)}"
    )
    return text, [value for one in (*where, *order) for value in one.values]
