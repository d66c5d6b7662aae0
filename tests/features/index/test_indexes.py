"""Indexes over the real lake: appended to, replaced, compacted, expired, given columns."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.index.files import RunFiles
from falaj.features.index.indexes import Indexes, chained
from falaj.features.index.runs import Span
from falaj.features.model import Entity, Feature, FeatureView, Knowledge
from falaj.features.offline import Offline
from falaj.features.views import ViewPlan
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.adapters.lake_ducklake import DuckLake

TIME = pa.timestamp("us", "UTC")
VIEW = FeatureView(
    name="v", entity="e", source="events", event_time="at",
    features=[Feature("x", "int64"), Feature("note", "string")],
)  # fmt: skip
PLAN = ViewPlan.of(VIEW, Entity(name="e", keys={"k": "int64"}))


@pytest.fixture
def lake(tmp_path):
    made = Counting.in_folder(tmp_path / "lake", threads=1)
    yield made
    made.close()


class Counting(DuckLake):
    """Remembers from which positions rows were read."""

    def log(self, table, **how):
        self.__dict__.setdefault("read", []).append(how.get("since", 0))
        return super().log(table, **how)


def rows(*values):
    """One event of one entity, all at once: only its place in the log tells which is last."""
    return pa.table(
        {
            "k": pa.array([1] * len(values), pa.int64()),
            "at": pa.array([5] * len(values), pa.int64()).cast(TIME),
            "x": pa.array(values, pa.int64()),
            "note": pa.array([f"note {value}" for value in values]),
        }
    )


def latest(lake, offline, snapshot=None):
    at = lake.latest() if snapshot is None else snapshot
    keys, times = [pa.array([1])], np.array([9])
    found = offline.values(PLAN, ["x", "note"], keys, times, Knowledge.RECORDED, at)
    x, note = found["x"][0].as_py(), found["note"][0].as_py()
    assert note == (None if x is None else f"note {x}")
    return x


@pytest.fixture(params=["memory", "files"])
def offline(request, lake, tmp_path):
    files = RunFiles(tmp_path / "index", None) if request.param == "files" else None
    return Offline(Indexes(lake, files, recheck_seconds=0))


def test_ties_go_by_the_place_in_the_log_through_every_kind_of_maintenance(lake, offline):
    later = datetime.now(UTC) + timedelta(days=1)
    first = lake.append("events", rows(7, 3)).id
    assert latest(lake, offline) == 3
    second = lake.append("events", rows(9, 1)).id
    lake.append("others", rows(1))
    assert latest(lake, offline) == 1
    assert latest(lake, offline, first) == 3
    lake.compact()
    assert latest(lake, offline) == 1
    assert latest(lake, Offline(Indexes(lake))) == 1
    assert latest(lake, offline, first) == 3
    replaced = lake.replace("events", rows(4)).id
    assert latest(lake, offline) == 4
    assert latest(lake, offline, second) == 1
    lake.append("events", rows(2).append_column("more", pa.array([0.5])), add_columns=True)
    assert latest(lake, offline) == 2
    assert latest(lake, offline, replaced) == 4
    lake.replace("events", rows(8).select(["note", "x", "at", "k"]))  # another table
    assert latest(lake, offline) == 8
    lake.expire(older_than=later, grace_seconds=-60)
    lake.compact()
    assert latest(lake, offline) == 8
    with pytest.raises(NotFound):
        latest(lake, offline, first)
    lake.append("events", rows(6))
    lake.expire(older_than=later, grace_seconds=-60)
    assert latest(lake, offline) == 6


def test_only_what_came_later_is_read_even_after_compaction_and_expiry(lake, offline):
    lake.append("events", rows(*range(40)))
    assert latest(lake, offline) == 39
    lake.append("events", rows(1, 2))
    assert latest(lake, offline) == 2
    lake.compact()
    lake.expire(older_than=datetime.now(UTC) + timedelta(days=1), grace_seconds=-60)
    assert latest(lake, offline) == 2
    lake.append("events", rows(3))
    lake.compact()
    assert latest(lake, offline) == 3
    assert lake.read == [0, 40, 40]


def test_a_table_that_is_made_later_or_hides_its_log_is_told(lake, offline):
    assert latest(lake, offline) is None
    before = lake.latest()
    lake.append("events", rows(5))
    assert latest(lake, offline) == 5
    assert latest(lake, offline, before) is None
    lake.replace("events", rows(5).append_column("rowid", pa.array([1])))
    with pytest.raises(InvalidInput, match="rowid"):
        latest(lake, offline)
    with pytest.raises(NotFound, match="99"):
        latest(lake, offline, 99)


def test_spans_are_chained_from_the_beginning_and_reach_far_first():
    def span(begin, end, snapshot=1):
        return Span("t", begin, end, end - begin, snapshot)

    spans = [span(0, 10), span(0, 20), span(10, 15), span(10, 25), span(30, 40), span(20, 30)]
    paths = [[(one.begin, one.end) for one in path] for path in chained(spans, 0)]
    assert paths[0] == [(0, 20), (20, 30), (30, 40)]
    assert [(0, 10), (10, 25)] in paths
    assert [] not in paths
