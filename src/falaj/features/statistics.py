"""Statistics of features, computed when rows come: of each new part of a source's log.

They are rows of the lake table ``feature_statistics``. Each tells of the rows of one part
of the log of a view's source, so that nothing is ever counted twice, and a history of how
values changed is there from the first load. Of a window view they tell of the values that
go into its aggregates. Of a personal or sensitive view only numbers of rows and of nulls
are kept: the least value of a column can be a person's value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.answers import FeatureStatistic
from falaj.features.model import FeatureView
from falaj.features.types import DType, Type
from falaj.features.views import Events, ViewPlan, column_key
from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.telemetry import logger

if TYPE_CHECKING:
    from falaj.features.store import FeatureStore
    from falaj.kernel.clock import Clock
    from falaj.lake.ports import Lake

TABLE = "feature_statistics"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SAMPLED = 50_000
"""Quantiles are those of so many values, taken evenly from all; of fewer they are exact."""
MOST_DISTINCT = 100_000
"""Different words are counted up to here."""
_ROWS_PER_BATCH = 262_144
_NUMBERS = (DType.BOOL, DType.INT64, DType.FLOAT64, DType.TIMESTAMP)
_SCHEMA = pa.schema(
    [
        ("view", pa.string()),
        ("version", pa.int64()),
        ("feature", pa.string()),
        ("dtype", pa.string()),
        ("snapshot", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
        ("log", pa.string()),  # the identity of the source table
        ("since", pa.int64()),  # positions of the log, [since, until)
        ("until", pa.int64()),
        ("n", pa.int64()),
        ("n_null", pa.int64()),
        ("n_not_finite", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("quantiles", pa.list_(pa.float64())),
        ("n_distinct", pa.int64()),
    ]
)


@dataclass
class Summary:
    """What is known of the values of one feature, of batches of any size.

    Mean and variance are merged batch by batch (Chan, Golub and LeVeque 1979).
    """

    dtype: Type | None
    hidden: bool
    chance: np.random.Generator
    n: int = 0
    n_null: int = 0
    n_not_finite: int = 0
    n_finite: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = float("inf")
    greatest: float = float("-inf")
    kept: Any = field(default_factory=lambda: np.empty(0))
    ranks: Any = field(default_factory=lambda: np.empty(0))
    words: set[Any] = field(default_factory=set)

    def add(self, values: pa.Array) -> None:
        """Take the next values."""
        self.n += len(values)
        self.n_null += values.null_count
        if self.hidden:
            return
        if self.dtype in _NUMBERS:
            self._add_numbers(values.drop_null())
        elif self.dtype is DType.STRING and len(self.words) < MOST_DISTINCT:
            self.words.update(pc.unique(values.drop_null()).to_pylist())

    def _add_numbers(self, values: pa.Array) -> None:
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.int64())
        numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
        finite = numbers[np.isfinite(numbers)]
        self.n_not_finite += len(numbers) - len(finite)
        if not len(finite):
            return
        self.least = min(self.least, float(finite.min()))
        self.greatest = max(self.greatest, float(finite.max()))
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(finite.mean())
            apart, whole = mean - self.mean, self.n_finite + len(finite)
            self.squares += float(np.square(finite - mean).sum())
            self.squares += apart * apart * self.n_finite * len(finite) / whole
            self.mean += apart * len(finite) / whole
        self.n_finite = whole
        self.kept = np.concatenate([self.kept, finite])
        self.ranks = np.concatenate([self.ranks, self.chance.random(len(finite))])
        if len(self.kept) > SAMPLED:  # those with the least ranks are an even sample of all
            chosen = np.argpartition(self.ranks, SAMPLED)[:SAMPLED]
            self.kept, self.ranks = self.kept[chosen], self.ranks[chosen]

    def told(self) -> dict[str, Any]:
        """The figures, null where they have no meaning or must not be told."""
        some = self.n_finite > 0
        distinct = self.dtype is DType.STRING and not self.hidden
        return {
            "n": self.n,
            "n_null": self.n_null,
            "n_not_finite": self.n_not_finite,
            "mean": self.mean if some else None,
            "std": float(np.sqrt(self.squares / self.n_finite)) if some else None,
            "min": self.least if some else None,
            "max": self.greatest if some else None,
            "quantiles": self._quantiles() if some else None,
            "n_distinct": min(len(self.words), MOST_DISTINCT) if distinct else None,
        }

    def _quantiles(self) -> list[float]:
        found: list[float] = np.quantile(self.kept, QUANTILES, method="inverted_cdf").tolist()
        return found


class FeatureStatistics:
    """Keeps the statistics of views up to date.

    Args:
        store: knows the views and the lake.
        version_of: the version of a view's current definition.
        clock: tells when.
    """

    def __init__(self, store: FeatureStore, version_of: Callable[[str], int], clock: Clock) -> None:
        self._store = store
        self._version_of = version_of
        self._clock = clock

    def update_all(self) -> int:
        """Bring every view up to date; returns how many had new rows. What fails is logged."""
        done = 0
        for view in self._store.definitions.all(FeatureView.kind):
            try:
                done += self.update(view.name)
            except FalajError as error:
                logger(__name__).warning("no statistics", view=view.name, error=str(error))
        return done

    def update(self, view: str) -> bool:
        """Keep the statistics of what came since the last time; False if nothing did.

        Raises:
            NotFound: no such view. InvalidInput: its source does not fit it.
        """
        plan, lake = self._store.view_plan(view), self._store.lake
        snapshot = lake.latest()
        try:
            extent = lake.extent(plan.view.source, snapshot)
        except NotFound:
            return False  # no rows yet, or a table that is not ours
        version = self._version_of(view)
        since = self._told_until(view, version, extent.identity)
        if extent.end <= since:
            return False
        summaries = self._summaries(plan, since)
        for events in self._events(plan, snapshot, since):
            for name, column, dtype in _inputs(plan):
                values = events.columns[column_key(column, dtype)] if column else None
                summaries[name].add(_values(events, values, counted=dtype is None))
        at = self._clock.now()
        rows = [
            {
                "view": view,
                "version": version,
                "feature": name,
                "dtype": str(summary.dtype or ""),
                "snapshot": snapshot,
                "at": at,
                "log": extent.identity,
                "since": since,
                "until": extent.end,
                **summary.told(),
            }
            for name, summary in summaries.items()
        ]
        key = f"{TABLE}/{view}/{version}/{extent.identity}/{since}"
        lake.append(TABLE, pa.Table.from_pylist(rows, schema=_SCHEMA), key=key)
        return True

    def _told_until(self, view: str, version: int, identity: str) -> int:
        lake = self._store.lake
        if not lake.exists(TABLE):
            return 0
        found = lake.query(
            f"SELECT max(until) AS until FROM {TABLE}"
            " WHERE view = $view AND version = $version AND log = $log",
            parameters={"view": view, "version": version, "log": identity},
        )
        return found["until"][0].as_py() or 0

    def _summaries(self, plan: ViewPlan, since: int) -> dict[str, Summary]:
        seed = hashlib.sha256(f"{plan.name}/{since}".encode()).digest()[:8]
        chance = np.random.default_rng(int.from_bytes(seed, "big"))
        return {name: Summary(dtype, plan.sealed, chance) for name, _, dtype in _inputs(plan)}

    def _events(self, plan: ViewPlan, snapshot: int, since: int) -> Iterator[Events]:
        reader = self._store.lake.log(
            plan.view.source,
            columns=plan.source_columns,
            snapshot=snapshot,
            since=since,
            rows_per_batch=_ROWS_PER_BATCH,
        )
        for batch in reader:
            if batch.num_rows:
                yield plan.events(pa.Table.from_batches([batch]).select(plan.source_columns))


def _inputs(plan: ViewPlan) -> list[tuple[str, str | None, Type | None]]:
    """Each feature with the column that its values come from, and their type."""
    found: list[tuple[str, str | None, Type | None]] = [
        (feature.name, feature.column, feature.dtype) for feature in plan.view.features
    ]
    for aggregate in plan.view.aggregates:
        counted = aggregate.function == "count"
        found.append((aggregate.name, aggregate.column, None if counted else aggregate.dtype))
    return found


def _values(events: Events, values: pa.Array | None, *, counted: bool) -> pa.Array:
    """The values of a feature; of what is only counted, whether there is one."""
    if values is None:
        return pa.array(np.ones(len(events), np.bool_))
    return pc.if_else(values, True, None) if counted else values


def listed(lake: Lake, view: str, *, feature: str | None, limit: int) -> list[FeatureStatistic]:
    """The statistics of a view, the newest first."""
    if not lake.exists(TABLE):
        return []
    found = lake.query(
        f"SELECT * FROM {TABLE} WHERE view = $view AND ($feature IS NULL OR feature = $feature)"
        ' ORDER BY "at" DESC, until DESC, feature LIMIT $n',
        parameters={"view": view, "feature": feature, "n": limit},
    )
    return [
        FeatureStatistic.model_validate(
            {
                **{name: row[name] for name in FeatureStatistic.model_fields if name in row},
                "quantiles": dict(zip(map(str, QUANTILES), row["quantiles"] or (), strict=False)),
            }
        )
        for row in found.to_pylist()
    ]


__all__ = ["TABLE", "FeatureStatistics", "Summary", "listed"]
