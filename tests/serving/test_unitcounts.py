"""Counts of a rollout by buckets of units: where a unit lies, and that no count is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency

from falaj.serving import meters as meters_module
from falaj.serving import unitcounts
from falaj.serving.assignment import position
from falaj.serving.counted import BUCKETS, buckets_of
from falaj.serving.meters import Meters
from falaj.serving.predictions import Parsed
from falaj.serving.unitcounts import ERRED_ROW, UNIT_BUCKETS, UnitCells, add_file, bucket_of


@dataclass(frozen=True)
class Row:
    who: str | int | None


WHO = attrgetter("who")


def asked(who: str | int | None, request_id: str | None = None) -> Parsed:
    return Parsed([Row(who)], request_id, None, 0, "u", started=0.0)


def answered(meters: Meters, *who: str | None, seconds: float = 0.001) -> None:
    cells = meters.of("shop").units("new")
    cells.answered([asked(one) for one in who], WHO, seconds)


def by_bucket(meters: Meters, variant: str = "new") -> np.ndarray[Any, Any]:
    return meters.units("shop")[variant, False].sum(axis=0)


@pytest.mark.parametrize("form", ["{}", "user-{:08d}", "{}@example.com", "aa-{:x}-0"])
def test_units_fall_evenly_into_buckets_and_no_bucket_tells_of_the_variant(form: str) -> None:
    units = [form.format(number) for number in range(40_000)]
    buckets = np.array([bucket_of(unit) for unit in units])
    counts = np.bincount(buckets, minlength=UNIT_BUCKETS)
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi2.sf(statistic, UNIT_BUCKETS - 1) > 1e-3
    new = np.array([position("rol_1", unit) < 0.1 for unit in units])
    table = [np.bincount(buckets[side], minlength=UNIT_BUCKETS) for side in (new, ~new)]
    assert chi2_contingency(table).pvalue > 1e-3


def test_a_bucket_is_the_same_everywhere_and_for_ever() -> None:
    assert [bucket_of(one) for one in ("a", "b", 17, "17", "é")] == [149, 10, 188, 188, 77]


@given(st.floats(0, 5_000, width=32))
def test_a_latency_lies_in_the_bucket_in_which_the_meters_have_it(seconds: float) -> None:
    cells = UnitCells(memory := bytearray(1 << 20))
    cells.ran(Row("a"), asked("a"), WHO, seconds)
    (place,) = np.flatnonzero(np.frombuffer(memory, np.int64, offset=1_024))
    assert place // UNIT_BUCKETS == buckets_of(np.array([seconds], np.float32))[0]
    assert place % UNIT_BUCKETS == bucket_of("a")


def test_requests_of_one_unit_lie_together_and_those_without_one_each_by_themselves(
    tmp_path: Path,
) -> None:
    meters = Meters(tmp_path, "w0")
    answered(meters, *["a"] * 50)
    assert np.flatnonzero(by_bucket(meters)).tolist() == [bucket_of("a")]
    answered(meters, *[None] * UNIT_BUCKETS)
    alone = by_bucket(meters)
    alone[bucket_of("a")] -= 50
    assert (alone == 1).all()
    cells = meters.of("shop").units("named")
    cells.answered([asked(None, "r1")] * 3, WHO, 0.001)
    cells.answered([asked(None, "r2")] * 2, None, 0.001)
    named = by_bucket(meters, "named")
    assert named[[bucket_of("r1"), bucket_of("r2")]].tolist() == [3, 2]


def test_failures_stand_in_a_row_of_their_own(tmp_path: Path) -> None:
    meters = Meters(tmp_path, "w0")
    answered(meters, "a", "b")
    meters.of("shop").units("new").erred(Row("b"), asked("a"), WHO)
    cells = meters.units("shop")["new", False]
    assert cells[ERRED_ROW].nonzero()[0].tolist() == [bucket_of("b")]
    assert cells[:BUCKETS].sum() == 2


def test_counts_add_up_over_workers_and_outlive_them_and_endpoints_do_not_mix(
    tmp_path: Path,
) -> None:
    for number in range(4):
        meters = Meters(tmp_path, f"w{number}")
        answered(meters, "a", "b", f"u{number}")
        meters.of("other").units("new").erred(Row("a"), asked("a"), WHO)
        if number < 3:
            meters.close()
    reader = Meters(tmp_path, "reader")
    assert by_bucket(reader).sum() == 12
    assert by_bucket(reader)[bucket_of("a")] >= 4
    assert reader.units("other")["new", False].sum() == 4
    assert reader.units("third") == {}
    assert len(list(tmp_path.glob("*.units"))) == 1
    meters.close()


class Killed(BaseException):
    """Stands for SIGKILL: nothing behind it runs."""


@pytest.mark.parametrize("step", range(9))
def test_taking_over_counts_each_exactly_once_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    for worker in ("a", "b"):
        meters = Meters(tmp_path, worker)
        answered(meters, *"vwxyz")
        meters.close()
    left = step

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
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
        try:
            third = Meters(tmp_path, "third")
            third.of("shop")
        except Killed:
            pass
        third.close()
    assert by_bucket(Meters(tmp_path, "reader")).sum() == 10
    for name in ("fourth", "fifth"):
        Meters(tmp_path, name).of("shop")
        assert by_bucket(Meters(tmp_path, "reader")).sum() == 10


def test_a_file_by_units_without_its_meters_goes_and_those_of_living_workers_stay(
    tmp_path: Path,
) -> None:
    living = Meters(tmp_path, "living")
    answered(living, "a", "b")
    left = tmp_path / "w9.0123456789ab.units"
    left.write_bytes(bytes(1 << 20))
    Meters(tmp_path, "next").of("shop").refused(400)
    assert not left.exists()
    assert by_bucket(Meters(tmp_path, "reader")).sum() == 2


WORKER = """
import sys
from pathlib import Path
from falaj.serving.meters import Meters
from falaj.serving.predictions import Parsed
cells = Meters(Path(sys.argv[1]), "killed").of("shop").units("new")
request = [Parsed([None], "r", None, 0, "u", 0.0)]
n = 0
while True:
    cells.answered(request, None, 0.001)
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
    counted = by_bucket(Meters(tmp_path, "reader")).sum()
    assert told <= counted <= told + 100
    Meters(tmp_path, "next").of("shop")
    assert by_bucket(Meters(tmp_path, "reader")).sum() == counted


def test_on_a_full_disk_requests_are_answered_and_the_log_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    meters = Meters(tmp_path, "w0")
    with monkeypatch.context() as patched:
        patched.setattr(unitcounts.os, "posix_fallocate", full)
        answered(meters, "a")
    answered(meters, "a")
    assert meters.units("shop") == {}
    assert "not counted for its guardrails" in "".join(capsys.readouterr())


@pytest.mark.parametrize("given_back", [True, False])
def test_after_a_disk_that_had_room_for_part_of_a_section_the_next_one_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_back: bool
) -> None:
    def half(file: int, place: int, length: int) -> None:
        os.truncate(file, place + length // 2)
        raise OSError(28, "No space left on device")

    def failing(*_: int) -> None:
        raise OSError(5, "Input/output error")

    meters = Meters(tmp_path, "w0")
    answered(meters, "a")
    with monkeypatch.context() as patched:
        patched.setattr(unitcounts.os, "posix_fallocate", half)
        if not given_back:
            patched.setattr(unitcounts.os, "ftruncate", failing)
        meters.of("shop").units("lost").erred(Row("a"), asked("a"), WHO)
    (file,) = tmp_path.glob("*.units")
    assert (file.stat().st_size == 1 << 20) == given_back
    meters.of("shop").units("later").erred(Row("b"), asked("b"), WHO)
    assert {variant for variant, _ in meters.units("shop")} == {"new", "later"}
    assert by_bucket(meters, "later").sum() == 1


def test_a_section_that_is_made_in_this_very_moment_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "w.units"
    path.write_bytes(bytes(1 << 20))
    found: dict[tuple[str, str], Any] = {}
    add_file(found, path, None)
    add_file(found, tmp_path / "none.units", None)
    assert found == {}
