"""What happened between two looks at the meters, as ``falaj endpoints top`` tells it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from falaj.interfaces.top import rows_between, table_of
from falaj.serving.meters import Meters
from falaj.serving.model import Measurement
from falaj.serving.predictions import Parsed

AT = datetime(2026, 11, 1, tzinfo=UTC)


def look(meters: Meters, seconds: float) -> Measurement:
    series = meters.series()
    for one in series:
        one.release = "release_1"
    return Measurement(at=AT + timedelta(seconds=seconds), series=series)


def answer(meters: Meters, endpoint: str, variant: str, n: int, seconds: float, rows: int) -> None:
    request = Parsed([None], None, None, explain=False, caller="u", started=0.0)
    meters.of(endpoint).variant(variant).answered(
        [request] * n, begun=seconds / 2, done=seconds, model_seconds=seconds / 4, n_rows=rows
    )


def test_rates_and_quantiles_are_of_the_time_between_two_looks_alone(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    answer(meters, "delays", "champion", 500, 2.0, 500)
    before = look(meters, 0)
    answer(meters, "delays", "champion", 98, 0.010, 196)
    answer(meters, "delays", "champion", 2, 0.500, 4)
    for status in (400, 503, 504):
        meters.of("delays").refused(status)
    meters.of("delays").in_flight(7)
    (row,) = rows_between(before, look(meters, 2))
    assert (row.endpoint, row.variant, row.release) == ("delays", "champion", "release_1")
    assert (row.requests_per_second, row.predictions_per_second) == (50, 100)
    assert (row.errors_per_second, row.shed_per_second) == (1.0, 0.5)
    assert (row.queue, row.workers, row.batch_rows) == (7, 1, 100)
    assert row.p50_ms == row.p90_ms == pytest.approx(10, rel=1 / 16)
    assert row.p99_ms == row.p999_ms == pytest.approx(500, rel=1 / 16)
    assert row.queue_ms == pytest.approx((98 * 5 + 2 * 250) / 100, rel=1e-3)


def test_an_endpoint_with_two_variants_has_a_row_for_all_and_one_for_each(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    before = look(meters, 0)
    answer(meters, "delays", "champion", 30, 0.010, 30)
    answer(meters, "delays", "challenger", 10, 0.020, 10)
    answer(meters, "fraud", "champion", 5, 0.001, 5)
    rows = rows_between(before, look(meters, 1))
    shown = [(row.endpoint, row.variant, row.requests_per_second) for row in rows]
    assert shown == [
        ("delays", "", 40), ("delays", "challenger", 10), ("delays", "champion", 30),
        ("fraud", "champion", 5),
    ]  # fmt: skip


def test_an_endpoint_at_rest_has_no_quantiles(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    answer(meters, "delays", "champion", 3, 0.010, 3)
    (row,) = rows_between(look(meters, 0), look(meters, 1))
    assert (row.requests_per_second, row.p50_ms, row.batch_rows) == (0, None, None)


def test_a_name_cannot_command_the_terminal(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    before = look(meters, 0)
    answer(meters, "delays", "\x1b[2J[bold]x", 3, 0.010, 3)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table_of(rows_between(before, look(meters, 1))))
    told = console.export_text()
    assert "\x1b" not in told
    assert "[bold]x" in told
