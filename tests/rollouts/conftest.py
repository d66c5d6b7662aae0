"""A lake with predictions and outcomes that tests make up, and a judge of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.model import Extent
from falaj.lake.queries import table_names
from falaj.rollouts.judging import RolloutJudge
from falaj.rollouts.model import (
    Challenger,
    Look,
    Metric,
    Rollout,
    RolloutKind,
    Stage,
    Success,
)
from falaj.rollouts.ports import Underway
from falaj.rollouts.readings import Ints
from falaj.testing.rollouttrial import trial  # noqa: F401 - a fixture

START = datetime(2026, 5, 4, 8, tzinfo=UTC)
STAMP = pa.timestamp("us", tz="UTC")


class Ground:
    """An endpoint of its own in a shared lake, with its counters and its judge."""

    def __init__(self, lake: Any, number: int) -> None:
        self.lake = lake
        self.endpoint = f"shop{number}"
        self.outcomes = f"outcomes{number}"
        self.metrics: dict[str, Metric] = {}
        self.counted: dict[str, Ints] = {}
        self.shadows: set[str] = set()
        # On a busy machine any look may take long, and would rest.
        self.judge = RolloutJudge(lake, self.cells, self.declared, seconds=30, rests_from=1e9)
        self.memory: Mapping[str, object] = {}
        self._predictions = count()

    def cells(self, endpoint: str) -> dict[tuple[str, bool], Ints]:
        if endpoint != self.endpoint:
            return {}
        return {(name, name in self.shadows): one for name, one in self.counted.items()}

    def declared(self, name: str) -> Metric:
        if name not in self.metrics:
            raise NotFound(f"There is no metric {name!r}.", hint="Declare it.")
        return self.metrics[name]

    def metric(self, name: str, **more: Any) -> Metric:
        """Declare a metric over the outcomes."""
        more.setdefault("sql", f"SELECT unit, known_at, value FROM {self.outcomes}")
        more.setdefault("tables", (self.outcomes,))
        self.metrics[name] = Metric(name=name, **more)
        return self.metrics[name]

    def predicted(
        self,
        units: Sequence[str | None],
        variants: Sequence[str],
        at: datetime | Sequence[datetime],
        fields: Sequence[Mapping[str, object]] | None = None,
        *,
        release: str = "rel_1",
    ) -> None:
        """Add rows to the prediction log."""
        names = [f"p{next(self._predictions)}" for _ in units]
        times = [at] * len(units) if isinstance(at, datetime) else list(at)
        told = [json.dumps(one) for one in fields or [{}] * len(units)]
        self.lake.append(
            f"predictions_{self.endpoint}",
            pa.table(
                {
                    "prediction_id": names,
                    "request_id": names,
                    "unit": pa.array(units, pa.string()),
                    "release": [release] * len(units),
                    "variant": list(variants),
                    "requested_at": pa.array(times, STAMP),
                    "fields": told,
                }
            ),
        )

    def happened(
        self,
        units: Sequence[str],
        values: Sequence[float],
        at: datetime | Sequence[datetime],
        **more: Sequence[Any],
    ) -> None:
        """Add outcomes."""
        times = [at] * len(units) if isinstance(at, datetime) else list(at)
        columns = {
            "unit": list(units),
            "known_at": pa.array(times, STAMP),
            "value": pa.array([float(one) for one in values]),
        }
        self.lake.append(self.outcomes, pa.table({**columns, **more}))

    def rollout(self, **more: Any) -> Rollout:
        """A rollout of one challenger, ``new``."""
        how = RolloutKind(more.get("how", "ab"))
        more.setdefault("challengers", (Challenger(name="new", version=2, share=0.5),))
        if how is RolloutKind.CANARY:
            more.setdefault("stages", (Stage(share=0.5),))
        elif how in (RolloutKind.AB, RolloutKind.BANDIT):
            more.setdefault("success", Success(metric="converted"))
        return Rollout(name="try", endpoint=self.endpoint, **{"how": how, **more})

    def look(
        self,
        rollout: Rollout,
        minutes: float = 60,
        *,
        shares: Mapping[str, float] | None = None,
        since: float = 0,
        changes: Sequence[tuple[float, Mapping[str, float]]] = (),
        **more: Any,
    ) -> Look:
        """Look some minutes after the start, with the memory of the look before.

        ``changes`` are shares and the minutes since which they held, instead of ``shares``.
        """
        if changes:
            since, shares = changes[-1]
        underway = Underway(
            id=f"rol_{self.endpoint}",
            rollout=rollout,
            release="rel_1",
            started_at=START,
            shares=dict(shares or {"champion": 0.5, "new": 0.5}),
            shares_since=START + timedelta(minutes=since),
            changes=[(START + timedelta(minutes=at), dict(told)) for at, told in changes],
            high=rollout.layer_share if rollout.layer else 1.0,
            memory=json.loads(json.dumps(self.memory)),
            **more,
        )
        found, self.memory = self.judge.look(underway, START + timedelta(minutes=minutes))
        return found


class MemoryLake:
    """Tables in memory, asked as the lake is: what judges need of it, without files."""

    def __init__(self) -> None:
        self.tables_held: dict[str, pa.Table] = {}
        self.engine = duckdb.connect()
        self.engine.execute("SET TimeZone = 'UTC'; SET threads = 1")

    def append(self, table: str, rows: pa.Table) -> None:
        before = self.tables_held.get(table)
        self.tables_held[table] = rows if before is None else pa.concat_tables([before, rows])

    def exists(self, table: str) -> bool:
        return table in self.tables_held

    def latest(self) -> int:
        return 0

    def extent(self, table: str, snapshot: int, *, before: int | None = None) -> Extent:
        n = self.tables_held[table].num_rows
        return Extent(identity=table, n_rows=n if before is None else min(before, n), end=n)

    def scan(self, table: str, *, columns=None, where=None, parameters=None, snapshot=None):
        chosen = ", ".join(columns or ["*"])
        sql = f"SELECT {chosen} FROM {table}" + (f" WHERE {where}" if where else "")
        return self.query(sql, parameters=parameters)

    def log(self, table: str, *, columns, snapshot: int, since: int) -> pa.RecordBatchReader:
        return self.tables_held[table].slice(since).select(columns).to_reader()

    def query(self, sql: str, *, inputs=None, parameters=None) -> pa.Table:
        given = {**self.tables_held, **(inputs or {})}
        cursor = self.engine.cursor()
        for name in table_names(sql, given):
            cursor.register(name, given[name])
        try:
            return cursor.execute(sql, parameters or {}).to_arrow_table()
        except duckdb.Error as error:
            raise InvalidInput(f"The query is wrong: {error}.") from error
        finally:
            cursor.close()


_RUNNING = count()


@pytest.fixture
def ground() -> Ground:
    return Ground(MemoryLake(), next(_RUNNING))


@pytest.fixture(scope="module")
def real_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """On a lake of files, with one exposure and one outcome."""
    folder: Path = tmp_path_factory.mktemp("rollouts")
    lake = DuckLake(Place.of("ducklake:", folder), threads=1)
    made = Ground(lake, next(_RUNNING))
    made.predicted(["a"], ["new"], START + timedelta(minutes=1))
    made.happened(["a"], [1], START + timedelta(minutes=2))
    yield made
    lake.close()
