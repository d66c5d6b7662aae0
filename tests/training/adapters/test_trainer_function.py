"""A user's own function as a trainer: confined, limited, and never believed."""

import time
from pathlib import Path

import numpy as np
import pytest

from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.adapters import python_child
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_python import PythonRuntime
from falaj.serving.scorers import RuntimeScorers
from falaj.testing.trainers import ENCODING, TrainerSuite, examples
from falaj.training.adapters.trainer_function import (
    FunctionFailed,
    FunctionLimits,
    FunctionTrainer,
)

GOOD = """
import numpy as np

def fit(train, validation, *, names, seed, options):
    import lightgbm

    clip = lambda m: np.clip(m, -3e38, 3e38)
    booster = lightgbm.train(
        {"objective": options.get("objective", "binary"), "verbosity": -1, "num_threads": 1,
         "num_leaves": 7},
        lightgbm.Dataset(clip(train.matrix), train.labels, weight=train.weights),
        options.get("rounds", 25),
    )
    gain = booster.feature_importance("gain")
    return {
        "format": "lightgbm", "model": booster.model_to_string().encode(),
        "facts": {"rows": len(train.labels), "seed": seed, "kind": "trees"},
        "importance": dict(zip(names, gain / gain.sum())),
    }
"""
CONSTANT = repr(
    b"class Model:\n"
    b"    def __init__(self, folder): pass\n"
    b"    def predict(self, x): return x[:, 0] * 0 + 7"
)


def function(body, *, before=""):
    return f"{before}\ndef fit(train, validation, *, names, seed, options):\n    {body}\n"


def made(tmp_path, source=GOOD, *, permitted=True, **limits):
    (tmp_path / "mine.py").write_text(source)
    return FunctionTrainer(
        lambda name: tmp_path / Path(name).name,
        RuntimeScorers([LightGbmRuntime(), OnnxRuntime(), PythonRuntime()]),
        Path(python_child.__file__),
        permitted=permitted,
        limits=FunctionLimits(**limits) if limits else None,
    )


def fit(trainer, **options):
    return trainer.fit(
        examples(1), examples(2), ENCODING,
        params={"function": "mine.py:fit", "options": options}, seed=9,
        report=lambda share, told: None,
    )  # fmt: skip


@pytest.mark.nightly
class TestFunctionTrainer(TrainerSuite):
    @pytest.fixture
    def trainer(self, tmp_path):
        return made(tmp_path)

    @pytest.fixture
    def params(self):
        return {"function": "mine.py:fit", "options": {"rounds": 15}}

    @pytest.fixture
    def params_of_numbers(self):
        return {
            "function": "mine.py:fit", "options": {"rounds": 60, "objective": "regression"}
        }  # fmt: skip


def test_its_facts_and_options_come_through_and_its_code_is_the_users_file(tmp_path):
    trainer = made(tmp_path)
    found = fit(trainer, rounds=3)
    assert found.facts == {"rows": 1500.0, "seed": 9.0, "kind": "trees", "function": "mine.py:fit"}
    params = {"function": "mine.py:fit"}
    before = trainer.code(params)
    assert before.entry == "mine.py:fit"
    (tmp_path / "mine.py").write_text(GOOD + "# changed\n")
    assert trainer.code(params) != before


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (function("raise ValueError('no luck')"), r"ValueError: no luck \(line 3 of function.py\)"),
        (function("raise SystemExit"), "SystemExit"),
        ("def other(): pass", "has no attribute 'fit'"),
        ("def fit(:", "SyntaxError"),
        (function("return train"), "must return a dict"),
        (function("return {'format': 'pickle', 'model': b'x'}"), "none of"),
        (function("return {'format': 'onnx', 'model': b'x', 'facts': {'a': [1]}}"), "TypeError"),
        (function("import os; os._exit(3)"), "ended before it answered"),
        (function("return {'format': 'python', 'model': " + CONSTANT + "}"), "probabilities"),
        (
            function("import socket; socket.create_connection(('127.0.0.1', 9))"),
            "PermissionError",
        ),
        (function("import subprocess; subprocess.run(['true'])"), "Permission"),
        (function("open('/etc/passwd').read()"), "PermissionError"),
        (function("open('new.txt', 'w').write('x')"), "PermissionError"),
        (function("bytearray(1 << 33)"), "MemoryError"),
    ],
)
def test_what_goes_wrong_in_a_function_is_told_and_nothing_gets_out(tmp_path, source, told):
    with pytest.raises(FunctionFailed, match=told):
        fit(made(tmp_path, source))


def test_a_model_that_could_not_be_served_is_refused(tmp_path):
    import pickle

    for data in (b"tree\nnonsense", pickle.dumps([1, 2])):
        body = f"return {{'format': 'lightgbm', 'model': {data!r}}}"
        with pytest.raises(FalajError):
            fit(made(tmp_path, function(body)))


def test_an_answer_that_the_function_forges_is_not_believed(tmp_path):
    forged = (
        "import os, struct\n"
        "    text = b'{\"facts\": 7}'\n"
        "    for fd in range(3, 1024):\n"
        "        try: os.write(fd, struct.pack('<qq', len(text), 0) + text)\n"
        "        except OSError: pass\n"
        "    os._exit(0)"
    )
    with pytest.raises(FunctionFailed, match="cannot be read"):
        fit(made(tmp_path, function(forged)))


def test_one_that_takes_too_long_is_ended(tmp_path):
    begun = time.monotonic()
    with pytest.raises(FunctionFailed, match=r"longer than 1\.5 s"):
        fit(made(tmp_path, function("import time; time.sleep(60)"), seconds=1.5))
    assert time.monotonic() - begun < 30


def test_nothing_of_it_is_left_behind_in_memory(tmp_path):
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("there is no /dev/shm here")
    before = set(folder.glob("falaj-function-*"))
    with pytest.raises(FunctionFailed):
        fit(made(tmp_path, function("raise KeyError")))
    assert set(folder.glob("falaj-function-*")) <= before


def test_functions_run_only_where_the_operator_permits_it(tmp_path):
    with pytest.raises(InvalidInput, match="may not train") as caught:
        fit(made(tmp_path, permitted=False))
    assert "trainers.functions" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["mine.py", "mine:fit", "mine.py:fit()", "mine.py:", "os:system", 7, None]
)
def test_a_name_that_is_no_function_of_a_file_is_refused(tmp_path, name):
    with pytest.raises(InvalidInput, match="names no function"):
        made(tmp_path).parameters({"function": name})
    assert np.isfinite(examples(1).labels).all()
