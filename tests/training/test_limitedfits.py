"""A fit in a process of its own gives what it gives here, and can be stopped and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.compute import packed, task
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.resources import MIB, Resources
from falaj.training import limitedfits
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.limitedfits import fit_told, fitted_here, fitted_under_limits
from falaj.training.model import RunState, TrainingRequest
from falaj.training.plainly import plainly, rebuilt_from
from falaj.training.ports import Rows
from falaj.wiring.computeparts import fit_task

SMALL = Resources(cpus=1, memory_bytes=1024 * MIB)


def counting(n, *, label, report, checkpoints=None):
    """A fit that counts, tells and keeps."""
    begun = int(checkpoints.last() or b"0") if checkpoints is not None else 0
    for place in range(begun, n):
        report(place / n, f"{label} {place}")
        if checkpoints is not None:
            checkpoints.keep(place + 1, lambda place=place: str(place + 1).encode())
    return {"from": begun, "rows": np.arange(n, dtype=np.float32)}


@task
def counting_task(item):
    limitedfits._KEPT_EVERY_SECONDS = 0.0
    return fit_told(counting, item)


class Kept:
    def __init__(self, state=None):
        self.states = [] if state is None else [state]

    def last(self):
        return self.states[-1] if self.states else None

    def keep(self, n_done, state):
        self.states.append(state())


@pytest.fixture(scope="module")
def compute():
    made = LocalCompute(1)
    yield made
    made.close()


def fitted(compute, task_, name, args, given, resources=SMALL, check=lambda: None):
    used = []
    result = fitted_under_limits(
        compute, task_, name, resources, args, given, check=check, measured=used.append
    )
    return result, used[0]


def test_lightgbm_fits_to_the_same_bytes_under_limits(compute):
    chance = np.random.default_rng(3)
    matrix = chance.normal(size=(600, 3)).astype(np.float32)
    labels = (matrix[:, 0] + chance.normal(size=600) > 0).astype(np.float64)
    train, validation = Rows(matrix[:400], labels[:400]), Rows(matrix[400:], labels[400:])
    encoding = example_encoding()
    given = {"params": {"n_trees": 15, "min_data_in_leaf": 5}, "seed": 3,
             "report": lambda _share, _told: None}  # fmt: skip
    here = LightGbmTrainer().fit(train, validation, encoding, **given)
    there, used = fitted(compute, fit_task, "lightgbm", (train, validation, encoding), given)
    assert there == here
    assert used.cpu_seconds > 0


def example_encoding():
    import pyarrow as pa

    from falaj.training.encoding import learned

    rows = pa.table({"a": [1.0, 2.0], "b": [0.0, 1.0], "c": [2.0, 3.0]})
    return learned(rows, ("a", "b", "c"), np.array([0.0, 1.0]))


def test_reports_and_states_come_back_while_it_fits(compute):
    told, kept = [], Kept()
    given = {"label": "row", "report": lambda *one: told.append(one), "checkpoints": kept}
    result, _ = fitted(compute, counting_task, "any", (3,), given)
    assert told == [
        (0.0, "row 0"),
        (pytest.approx(1 / 3), "row 1"),
        (pytest.approx(2 / 3), "row 2"),
    ]
    assert kept.states == [b"1", b"2", b"3"]
    assert result["from"] == 0
    assert result["rows"].tolist() == [0, 1, 2]


def test_a_fit_goes_on_from_the_state_that_was_kept(compute):
    given = {"label": "row", "report": lambda *_one: None, "checkpoints": Kept(b"2")}
    result, _ = fitted(compute, counting_task, "any", (3,), given)
    assert result["from"] == 2


def test_what_a_report_raises_stops_the_fit(compute):
    def stopped(_share, _told):
        raise Conflict("Enough.")

    with pytest.raises(Conflict, match="Enough"):
        fitted(compute, counting_task, "any", (3,), {"label": "row", "report": stopped})


def test_a_fit_here_is_measured_too():
    used = []
    assert fitted_here(lambda n: n + 1, (1,), {}, measured=used.append) == 2
    assert used[0].wall_seconds > 0
    assert used[0].peak_memory_bytes > 0


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(plain)
def test_what_is_sent_comes_back_equal_and_of_the_same_kind(value):
    import msgspec

    back = rebuilt_from(msgspec.msgpack.decode(packed(plainly(value))))
    assert back == value
    assert type(back) is type(value)


def test_arrays_enums_and_classes_of_ours_come_back(compute):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    value = {
        "rows": Rows(array, np.zeros(0)),
        "state": RunState.FAILED,
        "request": TrainingRequest(model="late", training_set="ts_1"),
        "number": np.float64(2.5),
    }
    back = rebuilt_from(plainly(value))
    assert back["rows"].matrix.tolist() == array.tolist()
    assert back["rows"].labels.shape == (0,)
    back["rows"].matrix[0, 0] = 9  # one's own
    assert (back["state"], back["request"], back["number"]) == (
        RunState.FAILED, value["request"], 2.5
    )  # fmt: skip
    assert back["state"] is RunState.FAILED


@pytest.mark.parametrize(
    "value",
    [object(), Path("x"), lambda: 1, np.array([object()]), signal.SIGTERM],
    ids=["object", "path", "function", "objects", "foreign enum"],
)
def test_what_is_of_another_kind_is_refused(value):
    with pytest.raises(InvalidInput, match="cannot be sent"):
        plainly(value)


@pytest.mark.parametrize(
    "hostile",
    [
        {"$": "data", "of": "subprocess:Popen", "fields": {"args": "true"}},
        {"$": "data", "of": "falaj.kernel.compute:name_of", "fields": {}},
        {"$": "model", "of": "falaj.training.ports:Rows", "json": "{}"},
        {"$": "enum", "of": "falaj.training.ports:Rows", "value": 1},
    ],
)
def test_no_other_class_is_made_from_what_was_sent(hostile):
    with pytest.raises(InvalidInput, match="is no class that a fit may send"):
        rebuilt_from(hostile)
