"""Counters in shared memory: what is counted, who adds it up, and what a killed worker loses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from falaj.serving import meters as meters_module
from falaj.serving.counted import (
    BUCKETS,
    MODEL,
    QUEUE,
    ROWS,
    Counted,
    buckets_of,
    histogram,
    quantile,
    upper_of,
)
from falaj.serving.meters import Meters
from falaj.serving.predictions import Parsed


def asked(n: int, started: float = 0.0) -> list[Parsed]:
    return [Parsed([None], None, None, explain=False, caller="u", started=started)] * n


def run(meters: Meters, n: int = 1, seconds: float = 0.001, rows: int = 1, **more: Any) -> None:
    given_ = {"begun": seconds / 2, "model_seconds": seconds / 4, **more}
    section = meters.of("delays").variant("champion")
    section.answered(asked(n), done=seconds, n_rows=rows, **given_)


@given(st.floats(2**-20, 900, width=32))
def test_a_number_lies_in_its_bucket_and_the_bucket_is_at_most_a_sixteenth_wide(x: float) -> None:
    (bucket,) = buckets_of(np.array([x], np.float32)).tolist()
    assert x < upper_of(bucket)
    lower = upper_of(bucket - 1) if bucket else 2**-20
    assert lower <= x
    assert upper_of(bucket) - lower <= lower / 16 * (1 + 1e-12)


@given(st.lists(st.floats(2**-20, 128, width=32), min_size=1, max_size=300), st.sampled_from(
    [0.5, 0.9, 0.99, 0.999]))  # fmt: skip
def test_a_quantile_is_never_below_the_true_one_nor_a_sixteenth_above(
    values: list[float], share: float
) -> None:
    found = quantile(histogram(np.array(values, np.float32)), share)
    true = float(np.quantile(np.array(values, np.float32), share, method="inverted_cdf"))
    assert found is not None
    assert true <= found <= true * (1 + 1 / 16) + 1e-9


def test_nothing_has_no_quantile_and_what_is_beyond_the_scale_lies_at_its_end() -> None:
    assert quantile(np.zeros(BUCKETS, np.int64), 0.5) is None
    assert buckets_of(np.array([0, 1e-9, 1e9], np.float32)).tolist() == [0, 0, BUCKETS - 1]


@pytest.mark.parametrize("n", [1, 7, 511, 1023, 1024, 1025, 5000])
def test_each_request_of_a_run_is_counted_once_however_the_ring_is_folded(
    tmp_path: Path, n: int
) -> None:
    meters = Meters(tmp_path, "w0")
    for _ in range(3):
        run(meters, n, rows=n)
    (counted,) = [one for key, one in meters.totals().items() if key[1]]
    assert counted.answered == 3 * n
    assert counted.predictions == 3 * n
    assert counted.histograms[[MODEL, ROWS]].sum(axis=1).tolist() == [3, 3]
    assert counted.sums[:2] == pytest.approx([3 * n * 0.001, 3 * n * 0.0005], rel=1e-5)
    assert counted.quantile_ms(0.5, of=QUEUE) == pytest.approx(0.5, rel=1 / 16)


def test_rows_that_a_variant_scored_for_requests_of_another_are_predictions_not_requests(
    tmp_path: Path,
) -> None:
    meters = Meters(tmp_path, "w0")
    run(meters, 2, rows=2)
    meters.of("delays").variant("challenger").answered(
        [], begun=0.0, done=0.001, model_seconds=0.0001, n_rows=5
    )
    traffic = meters.traffic("delays")
    assert (traffic.requests, traffic.predictions) == (2, 7)
    told = {one.variant: (one.requests, one.predictions) for one in traffic.variants}
    assert told == {"champion": (2, 2), "challenger": (0, 5)}


def test_meters_add_up_over_workers_and_variants_and_outlive_their_workers(tmp_path: Path) -> None:
    for worker in ("w0", "w0", "w1"):
        meters = Meters(tmp_path, worker)
        run(meters, 50, rows=100)
        meters.of("delays").refused(429)
        meters.of("delays").refused(503)
        meters.of("delays").refused(504)
        meters.of("delays").unlogged(3, "champion")
        meters.of("delays").in_flight(9)
        meters.close()
    reader = Meters(tmp_path, "reader")
    traffic = reader.traffic("delays")
    assert (traffic.requests, traffic.predictions) == (159, 300)
    assert (traffic.refused, traffic.failed, traffic.shed, traffic.late) == (3, 6, 6, 3)
    assert (traffic.unlogged, traffic.in_flight) == (9, 0)
    assert traffic.p50_ms == traffic.p999_ms == pytest.approx(1, rel=1 / 16)
    assert reader.traffic("other").p50_ms is None


def test_files_of_ended_workers_do_not_grow_and_their_counts_stay(tmp_path: Path) -> None:
    for number in range(20):
        meters = Meters(tmp_path, f"w{number}")
        run(meters, 3, rows=3)
        meters.close()
        assert Meters(tmp_path, "reader").traffic("delays").requests == 3 * (number + 1)
        assert len(list(tmp_path.glob("*.meter"))) == 1
    living = Meters(tmp_path, "living")
    run(living)
    Meters(tmp_path, "next").of("delays")
    assert Meters(tmp_path, "reader").traffic("delays").requests == 61
    assert {path.name.partition(".")[0] for path in tmp_path.glob("*.meter")} == {"living", "next"}


def test_tags_are_counted_by_variant_and_outlive_their_worker(tmp_path: Path) -> None:
    for number in range(2):
        meters = Meters(tmp_path, f"w{number}")
        run(meters, 2, rows=8)
        meters.of("delays").variant("champion").tagged(8, 3)
        meters.of("delays").shadow("new").tagged(8, 8)
        meters.of("delays").in_flight(7)
        meters.close()
    traffic = Meters(tmp_path, "reader").traffic("delays")
    assert (traffic.tagged, traffic.anomalous) == (16, 6)  # no shadow answers
    by_variant = {(one.variant, one.shadow): one.anomalous for one in traffic.variants}
    assert by_variant == {("champion", False): 6, ("new", True): 16}


def test_counts_of_an_older_version_with_fewer_counters_are_read_rightly(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    run(meters, 3, rows=3)
    meters.of("delays").refused(503)
    meters.of("delays").in_flight(7)
    # As they stand in its page: eight counters, then what is in flight, then nothing.
    (page,) = tmp_path.glob("w0.*.meter")
    words = np.frombuffer(page.read_bytes(), np.int64)[:32]
    assert words[2:11].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 7]
    assert not words[11:].any()
    meters.close()
    Meters(tmp_path, "w1").of("delays")
    ended = msgspec.msgpack.decode((tmp_path / "ended").read_bytes())
    for one in ended["series"]:
        del one[2][8:]
    (tmp_path / "ended").write_bytes(msgspec.msgpack.encode(ended))
    traffic = Meters(tmp_path, "reader").traffic("delays")
    assert (traffic.requests, traffic.failed, traffic.shed, traffic.tagged) == (4, 1, 1, 0)


def test_counts_of_a_newer_version_with_more_counters_are_read_as_far_as_they_are_known(
    tmp_path: Path,
) -> None:
    meters = Meters(tmp_path, "w0")
    run(meters, 3, rows=3)
    meters.of("delays").refused(503)
    meters.close()
    Meters(tmp_path, "w1").of("delays")
    ended = msgspec.msgpack.decode((tmp_path / "ended").read_bytes())
    for one in ended["series"]:
        one[2] += [5, 7]
    (tmp_path / "ended").write_bytes(msgspec.msgpack.encode(ended))
    traffic = Meters(tmp_path, "reader").traffic("delays")
    assert (traffic.requests, traffic.failed, traffic.shed) == (4, 1, 1)
    Meters(tmp_path, "w2").of("delays")
    assert Meters(tmp_path, "reader").traffic("delays").requests == 4


class Killed(BaseException):
    """Stands for SIGKILL: nothing behind it runs."""


@pytest.mark.parametrize("step", range(6))
def test_taking_over_counts_each_exactly_once_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    for worker in ("a", "b"):
        meters = Meters(tmp_path, worker)
        run(meters, 5, rows=5)
        meters.close()
    left = step

    def dying(real: Any) -> Any:
        def call(*values: Any, **named: Any) -> Any:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return real(*values, **named)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dying(Path.unlink))
        patched.setattr(Path, "replace", dying(Path.replace))
        patched.setattr(meters_module.os, "fsync", dying(os.fsync))
        patched.setattr(meters_module.os, "ftruncate", dying(os.ftruncate))
        try:
            third = Meters(tmp_path, "third")
            third.of("delays")
        except Killed:
            pass
        third.close()
    assert Meters(tmp_path, "reader").traffic("delays").requests == 10
    for name in ("fourth", "fifth"):
        Meters(tmp_path, name).of("delays")
        assert Meters(tmp_path, "reader").traffic("delays").requests == 10


WORKER = """
import sys
from pathlib import Path
from falaj.serving.meters import Meters
from falaj.serving.predictions import Parsed
meters = Meters(Path(sys.argv[1]), "killed")
section = meters.of("delays").variant("champion")
request = [Parsed([None], None, None, explain=False, caller="u", started=0.0)]
n = 0
while True:
    section.answered(request, begun=0.0, done=0.001, model_seconds=0.0005, n_rows=1)
    n += 1
    if n % 100 == 0:
        print(n, flush=True)
"""


def test_a_worker_that_is_killed_loses_no_count(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = 0
    for line in process.stdout:
        told = int(line)
        if told >= 20_000:
            break
    process.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in process.stdout)])
    process.wait()
    reader = Meters(tmp_path, "reader")
    counted = reader.traffic("delays").requests
    assert told <= counted <= told + 100
    Meters(tmp_path, "next").of("delays")
    assert reader.traffic("delays").requests == counted
    assert [path.name.partition(".")[0] for path in tmp_path.glob("*.meter")] == ["next"]


def test_a_reader_never_sees_a_count_go_back_while_workers_count_and_end(tmp_path: Path) -> None:
    stop = threading.Event()
    wrong: list[tuple[int, int]] = []

    def read() -> None:
        reader, before = Meters(tmp_path, "reader"), 0
        while not stop.is_set():
            now = reader.traffic("delays").requests
            if now < before:
                wrong.append((before, now))
            before = now

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(30):
        meters = Meters(tmp_path, f"w{number}")
        for _ in range(150):
            run(meters, 10, rows=10)
        meters.close()
    stop.set()
    thread.join()
    assert wrong == []
    assert Meters(tmp_path, "reader").traffic("delays").requests == 30 * 1500


def test_the_exposition_is_what_prometheus_reads_and_says_what_was_counted(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    run(meters, 4, seconds=0.003, rows=8)
    meters.of("delays").refused(400)
    meters.of("delays").refused(504)
    meters.of("delays").unlogged(2, "champion")
    text = meters.exposition().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
    }
    served = (("endpoint", "delays"), ("variant", "champion"))
    assert samples["falaj_endpoint_requests_total", served] == 4
    assert samples["falaj_endpoint_predictions_total", served] == 8
    assert samples["falaj_endpoint_unlogged_total", served] == 2
    ends = (("endpoint", "delays"),)
    assert samples["falaj_endpoint_refused_total", ends] == 1
    assert samples["falaj_endpoint_deadline_exceeded_total", ends] == 1
    assert samples["falaj_endpoint_seconds_sum", served] == pytest.approx(0.012, rel=1e-5)
    assert samples["falaj_endpoint_batch_rows_bucket", (*ends, ("le", "11"), served[1])] == 1
    assert samples["falaj_endpoint_batch_rows_bucket", (*ends, ("le", "7"), served[1])] == 0
    for name, family in families.items():
        if family.type != "histogram":
            continue
        counts = [(float(s.labels["le"]), s.value) for s in family.samples if "le" in s.labels]
        assert counts == sorted(counts), name
        assert len({edge for edge, _ in counts}) == len(counts)
        assert counts[-1][0] == float("inf")
        assert counts[-1][1] == (1 if name.endswith(("model_seconds", "rows")) else 4)


def test_a_name_with_quotes_stays_one_label(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    name = 'say "hi"\\\n'
    meters.of("delays").variant(name).answered(
        asked(1), begun=0.0, done=0.1, model_seconds=0.1, n_rows=1
    )
    found = {
        sample.labels.get("variant")
        for family in text_string_to_metric_families(meters.exposition().decode())
        for sample in family.samples
    }
    assert name in found


def test_counts_of_no_time_at_all_are_counts(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    run(meters, 1, seconds=0.0)
    counted = Counted()
    for one in meters.totals().values():
        counted.add(one)
    assert counted.answered == 1
