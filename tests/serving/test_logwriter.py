from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from falaj.kernel.errors import Corrupt, FalajError, LimitExceeded
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.logged import PackedRecords, encoded, logged, rows_of_records
from falaj.serving.logwriter import LogWriter
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.predictions import Scored
from falaj.serving.rings import Ring, Rings
from falaj.testing.serving import MemoryBundles, make_release, servable


def scored(endpoint: str) -> Scored:
    compiler = PlanCompiler(
        MemoryBundles({"sha256:a": servable(0)}), [OnnxRuntime(device="cpu")], None
    )
    plan = compiler.compile(make_release(endpoint=endpoint))
    body = b'{"inputs":[{"a":1,"b":0,"c":0}]}'
    _, (part,) = plan.score([plan.parse(body, caller="user:a", started=0.0)])
    return part


def whole(data: PackedRecords, size: int = 1_000) -> bytes:
    return b"".join(iter(lambda: data.read(size), b""))


class Kept:
    """Spools that keep tables in memory; those of ``full`` take nothing."""

    def __init__(self, *full: str) -> None:
        self.full = full
        self.rows: dict[str, int] = {}

    def open(self, table: str) -> Any:
        spools = self

        class Spool:
            def keep(self, data: PackedRecords, size: int, name: str) -> None:
                self.append(rows_of_records(whole(data)))

            def append(self, rows: pa.Table) -> None:
                if table in spools.full:
                    raise LimitExceeded("It is full.")
                spools.rows[table] = spools.rows.get(table, 0) + rows.num_rows

            def flush(self) -> None:
                return

        return Spool()


def test_a_ring_whose_rows_cannot_be_kept_does_not_hold_up_the_others(tmp_path: Path) -> None:
    written = [Ring(tmp_path, 8_192) for _ in range(3)]
    first, *_ = sorted(written, key=lambda ring: ring.path)
    for ring in written:
        endpoint = "full" if ring is first else "delays"
        assert ring.put(encoded(logged(scored(endpoint))), 1)
    rings, kept = Rings(tmp_path), Kept("predictions_full")
    with pytest.raises(LimitExceeded):
        LogWriter(rings, kept).run_once()
    assert kept.rows == {"predictions_delays": 2}
    assert first.n_waiting == 1
    rings.close()


def test_a_round_takes_what_stood_there_when_it_began_and_no_more(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 8_192)
    record = encoded(logged(scored("delays")))

    class Busy(Kept):
        """While one file is written, the worker answers on."""

        def open(self, table: str) -> Any:
            assert ring.put(record, 1)
            return super().open(table)

    assert ring.put(record, 1)
    rings, kept = Rings(tmp_path), Busy()
    writer = LogWriter(rings, kept)
    assert writer.run_once() == 1
    assert ring.n_waiting == 1
    assert writer.run_once() == 1
    rings.close()


def test_endpoints_of_one_table_are_kept_together(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 8_192)
    for endpoint in ("flight-delays", "flight_delays"):
        assert ring.put(encoded(logged(scored(endpoint))), 1)
    rings, kept = Rings(tmp_path), Kept()
    LogWriter(rings, kept).run_once()
    assert kept.rows == {"predictions_flight_delays": 2}
    rings.close()


def test_of_packed_records_one_that_is_not_readable_is_left_out() -> None:
    record = encoded(logged(scored("delays")))
    other = encoded(["delays", "of another version"])
    assert rows_of_records(whole(PackedRecords([record, other, record]))).num_rows == 2
    assert rows_of_records(whole(PackedRecords([other]))).num_rows == 0


def test_many_records_are_packed_in_pieces_with_a_pause_behind_each() -> None:
    record, paused = encoded(logged(scored("delays"))), list[int]()
    data = PackedRecords([record] * 2_000, pause=lambda: paused.append(1))
    assert rows_of_records(whole(data, 77)).num_rows == 2_000
    assert len(paused) == -(-data.size // (96 * 1024))


@pytest.mark.parametrize("cut", [12, 40])
def test_bytes_that_were_not_packed_are_refused(cut: int) -> None:
    with pytest.raises(Corrupt):
        rows_of_records(whole(PackedRecords([encoded(logged(scored("delays")))]))[:cut])


def test_a_full_table_does_not_lose_the_rows_of_another() -> None:
    kept, lost = Kept("predictions_full"), list[tuple[str, int]]()
    log = PredictionLog(kept, lost=lambda endpoint, n: lost.append((endpoint, n)))
    for endpoint in ("full", "delays"):
        assert log.append(scored(endpoint))
    log.flush()
    assert isinstance(log.failed, FalajError)
    assert lost == [("full", 1)]
    assert kept.rows == {"predictions_delays": 1}
