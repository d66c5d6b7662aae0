"""Texts of metrics, and lakes of files, as people have them."""

import pytest
from tests.rollouts.units import minute

from falaj.rollouts.model import Success


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT 1 AS unit; DROP TABLE x",
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "ATTACH '/tmp/other.db'",
        "PRAGMA database_list",
        "SELECT unit, known_at, value FROM secrets",
        "SELECT unit, known_at, value FROM rollout_exposures",
        "SELECT unit, known_at, value FROM metric_values",
        "WITH unit_values AS (SELECT 1) SELECT * FROM unit_values",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r)"
        " SELECT n AS unit, now() AS known_at, 1 AS value FROM r",
        "SELECT unit, known_at, value FROM {outcomes}) UNION ALL (SELECT 1, now(), 2",
        "SELECT unit FROM {outcomes} -- no value",
        "SELECT getenv('HOME') AS unit, now() AS known_at, 1 AS value",
        "SELECT unit, known_at, value + 7 AS value FROM {outcomes}",
    ],
)
def test_hostile_and_wrong_texts_are_refused(real_ground, sql):
    real_ground.metric("converted", sql=sql.format(outcomes=real_ground.outcomes))
    look = real_ground.look(real_ground.rollout())
    assert look.unmeasured.startswith("The metric 'converted' ")
    assert look.success == []


def test_a_text_that_never_ends_is_ended(real_ground):
    real_ground.judge._metrics._seconds = 0.3
    real_ground.metric(
        "converted",
        sql="SELECT max(hash(a.range, b.range, c.range)) AS unit, 1 AS value,"
        " TIMESTAMPTZ '2026-05-04 08:30:00+00' AS known_at"
        " FROM range(1000000) a, range(1000000) b, range(1000000) c",
    )
    assert "longer than" in real_ground.look(real_ground.rollout()).unmeasured
    real_ground.judge._metrics._seconds = 30


def test_a_lake_with_files_and_erasures_is_read_by_what_is_new(real_ground):
    """The same as above over memory, on the lake that is shipped."""
    ground = real_ground
    ground.metric("converted")
    rollout = ground.rollout(success=Success(metric="converted", segments=("country",)))
    before = ground.look(rollout, 10).units
    ground.predicted(["late", "later"], ["champion", "new"], minute(0.5))
    assert ground.look(rollout, 11).units == {"champion": 1, "new": before["new"] + 1}
    kept = ground.lake.scan(f"predictions_{ground.endpoint}")
    ground.lake.replace(f"predictions_{ground.endpoint}", kept.slice(0, 1))  # some are erased
    assert sum(ground.look(rollout, 12).units.values()) == 1
