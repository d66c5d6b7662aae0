"""A part is scored in bounded memory, whatever the size of the whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.serving.batchoutputs import check_columns, prediction_ids
from falaj.serving.batchpart import at_of
from falaj.testing.serving import onnx_classifier

N_COLUMNS = 20
INSTANT_US = 1_793_491_200_000_000


def test_prediction_ids_are_of_their_scoring_and_count_its_rows():
    scoring = "job_0190a5b2c3d4e5f60718293a4b5c6d7e"
    ids = prediction_ids(scoring, 254, 3).to_pylist()
    assert ids == [f"pred_0190a5b2c3d4e5f60718293a{n:08x}" for n in (254, 255, 256)]
    assert prediction_ids(scoring, 2**32 - 1, 1).to_pylist()[0].endswith("ffffffff")
    assert prediction_ids(scoring, 0, 0).to_pylist() == []


def test_a_key_may_not_have_the_name_of_a_column_of_the_output():
    check_columns(["flight"], ["score"])
    for keys in (["score"], ["Error"], ["flight", "flight"]):
        with pytest.raises(InvalidInput, match="twice"):
            check_columns(keys, ["score"])


def test_at_names_a_column_or_an_instant_with_a_zone():
    assert at_of(None, ["at"]) == (None, None)
    assert at_of("at", ["at"]) == ("at", None)
    assert at_of("2026-11-01T00:00:00Z", ["at"]) == (None, INSTANT_US)
    for wrong in ("2026-11-01T00:00:00", "yesterday"):
        with pytest.raises(InvalidInput, match="neither a column"):
            at_of(wrong, ["at"])


def peak(folder, table):
    """(rows, megabytes) of a process that scores a whole table."""
    program = Path(__file__).with_name("scoring_measured.py")
    done = subprocess.run(
        [sys.executable, str(program), str(folder / "lake"), str(folder / "model.onnx"), table],
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(int, done.stdout.split()))


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_eight_times_the_rows_need_no_more_memory(ducklake, tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_classifier(N_COLUMNS))
    random, n = np.random.default_rng(5), 262_144
    for number in range(8):
        rows = pa.table({f"x{place}": random.normal(size=n) for place in range(N_COLUMNS)})
        ducklake.append("large", rows)
        if number == 0:
            ducklake.append("small", rows)
    n_small, small = peak(tmp_path, "small")
    n_large, large = peak(tmp_path, "large")
    assert (n_small, n_large) == (n, 8 * n)
    larger_by = 7 * n * N_COLUMNS * 8 // 2**20  # 280 MB of input
    assert large - small < larger_by / 3
