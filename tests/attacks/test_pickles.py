"""Forty malicious pickles: none of them runs anything, under whatever name it comes."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import falaj.serving.adapters.pickle_child
from falaj.kernel.errors import Corrupt, FalajError, InvalidInput
from falaj.models.files import check_bytes
from falaj.models.model import ModelFormat
from falaj.serving.adapters.runtime_pickle import PickleRuntime
from falaj.serving.model import ServableModel
from falaj.testing.pickles import malicious

CHILD = Path(falaj.serving.adapters.pickle_child.__file__)
READ_EACH = """
import importlib.util, io, json, sys
spec = importlib.util.spec_from_file_location("pickle_child", sys.argv[1])
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
import pickle
from pathlib import Path
read = {"ours": child.read, "python": pickle.load}[sys.argv[3]]
told = {}
for file in sorted(Path(sys.argv[2]).glob("*.pickle")):
    try:
        read(io.BytesIO(file.read_bytes()))
        told[file.stem] = "read"
    except Exception as error:
        told[file.stem] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
FOREIGN = [one for one in ModelFormat if one is not ModelFormat.PICKLE]


@pytest.fixture
def marks(tmp_path):
    """Where a pickle that runs leaves its mark."""
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def read_each(tmp_path, marks, how):
    """What came of reading all pickles in a process that nothing confines."""
    for one in malicious(marks):
        (tmp_path / f"{one.name}.pickle").write_bytes(one.data)
    done = subprocess.run(
        [sys.executable, "-c", READ_EACH, CHILD, tmp_path, how],
        capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_there_are_forty_or_more_and_each_has_a_name_of_its_own(marks):
    made = malicious(marks)
    assert len({one.name for one in made}) == len(made) >= 40
    assert sum(one.runs for one in made) >= 30


def test_they_do_run_where_nobody_stops_them(tmp_path, marks):
    """What the other tests show would mean nothing if these pickles were harmless."""
    read_each(tmp_path, marks, "python")
    wanted = {one.name for one in malicious(marks) if one.runs}
    until = time.monotonic() + 20
    while not wanted <= (ran := {one.name for one in marks.iterdir()}):
        assert time.monotonic() < until, wanted - ran  # some run in processes of their own
        time.sleep(0.05)


def test_the_list_of_names_alone_stops_each_of_them(tmp_path, marks):
    told = read_each(tmp_path, marks, "ours")
    assert list(marks.iterdir()) == []
    assert len(told) >= 40
    assert {name: what for name, what in told.items() if what == "read"} == {}


@pytest.mark.parametrize("model_format", FOREIGN)
def test_no_pickle_is_taken_under_the_name_of_another_format(marks, model_format):
    for one in malicious(marks):
        with pytest.raises(InvalidInput):
            check_bytes(one.data, model_format)
    assert list(marks.iterdir()) == []


def test_no_pickle_is_taken_where_the_settings_do_not_permit_them(shipped, marks):
    for one in malicious(marks)[:5]:
        (shipped.premises.settings.data_folders[0] / "evil.pickle").write_bytes(one.data)
        with pytest.raises(InvalidInput, match="not permitted"):
            shipped.ask(
                "models.bring", name="late", file="evil.pickle", model_format="pickle",
                inputs=[{"name": "signal"}],
            )  # fmt: skip
    assert shipped.refusals("models.bring")[-1] == "invalid-input"
    assert list(marks.iterdir()) == []


def test_the_setting_permits_benign_pickles_and_no_malicious_one(shipped, marks):
    from falaj.kernel.door import LocalDoor
    from falaj.kernel.jobs import JobState, Worker
    from falaj.wiring.assembly import Premises

    settings = shipped.premises.settings
    chosen = settings.supply_chain.model_copy(update={"pickles": True})
    made = Premises(settings.model_copy(update={"supply_chain": chosen}), process="permitted")
    door = LocalDoor(made.backend, shipped.world.caller())

    def brought(data):
        (settings.data_folders[0] / "model.pickle").write_bytes(data)
        job = door.call(
            made.backend.services.actions["models.bring"],
            {"name": "late", "file": "model.pickle", "model_format": "pickle",
             "inputs": [{"name": one} for one in ("a", "b", "c")]},
        )  # fmt: skip
        worker = Worker(made.jobs, made.handlers, name="permitted")
        while worker.run_one():
            pass
        with made.database.reading() as connection:
            return made.jobs.get(connection, job.id)

    try:
        evil = next(one for one in malicious(marks) if one.name == "os-system")
        refused = brought(evil.data)
        assert refused.state is JobState.FAILED
        assert "os.system, which is not allowed" in str(refused.error)
        model, _ = fitted(with_missing=True)
        taken = brought(pickle.dumps(model))
        assert taken.state is JobState.DONE, taken.error
    finally:
        made.close()
    assert list(marks.iterdir()) == []


def loaded(data, n_inputs=3):
    names = tuple("abcdefgh"[:n_inputs])
    return PickleRuntime(permitted=True).load(ServableModel("pickle", data, names))


def of_few(marks):
    names = {"os-system", "path-of-dots", "in-the-state-of-an-estimator", "extension", "persistent"}
    return [one for one in malicious(marks) if one.name in names]


def test_where_they_are_permitted_a_malicious_one_is_refused_in_its_process(marks):
    for one in of_few(marks):
        with pytest.raises(Corrupt):
            loaded(one.data)
    assert list(marks.iterdir()) == []


@pytest.mark.nightly
def test_where_they_are_permitted_each_malicious_one_is_refused_in_its_process(marks):
    for one in malicious(marks):
        with pytest.raises(FalajError):
            loaded(one.data)
    assert list(marks.iterdir()) == []


def fitted(*, with_missing=False):
    random = np.random.default_rng(3)
    rows = random.normal(size=(200, 3))
    steps = [SimpleImputer()] if with_missing else []
    model = make_pipeline(*steps, StandardScaler(), LogisticRegression())
    return model.fit(rows, rows[:, 0] > 0), rows


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_benign_model_answers_as_it_does_in_its_own_library(protocol):
    model, rows = fitted()
    found = loaded(pickle.dumps(model, protocol))
    try:
        answer = found.run(rows.astype(np.float32))
    finally:
        found.close()
    assert np.allclose(answer[:, 0], model.predict_proba(rows)[:, 1], atol=1e-6)


def test_a_pickle_of_something_that_is_no_classifier_is_refused():
    for thing in ([1, 2], np.zeros(3), StandardScaler().fit(np.zeros((2, 3)))):
        with pytest.raises(Corrupt):
            loaded(pickle.dumps(thing))
