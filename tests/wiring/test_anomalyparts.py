from __future__ import annotations

import pyarrow as pa
import pytest

from falaj.kernel.errors import FalajError
from falaj.kernel.settings import Settings
from falaj.monitoring.anomalywords import AnomalyWatch, MetricSeries
from falaj.monitoring.model import Monitor
from falaj.testing.calls import opened_call
from falaj.wiring import setup
from falaj.wiring.anomalyparts import anomaly_chores, series_anomalies
from falaj.wiring.assembly import assemble


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = Settings.read(tmp_path_factory.mktemp("platform"))
    setup.initialise(settings, owner="amina")
    premises = assemble(settings)
    yield premises
    premises.close()


def test_a_metric_of_a_table_that_its_caller_may_not_read_is_refused(made):
    at = pa.array([0, 1], pa.timestamp("us", tz="UTC"))
    made.lake.append("sales", pa.table({"at": at}))
    watch = AnomalyWatch(
        traffic=False, latency=False, errors=False,
        metrics=(MetricSeries(name="sales", table="sales", at="at"),),
    )  # fmt: skip
    monitor = Monitor(name="m", endpoint="late", anomalies=watch)
    with (
        opened_call(made.database, "user:nobody") as call,
        pytest.raises(FalajError, match="sales"),
    ):
        series_anomalies(made).report(call, monitor, watch, call.now)


def test_the_chores_note_where_the_meters_stand(made):
    for chore in anomaly_chores(made).values():
        chore()
    assert (made.settings.home / "meters" / "place").exists()
