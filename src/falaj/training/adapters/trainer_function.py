"""A user's own Python function as a trainer, in a confined process with limits.

The function stands in a file of the data folders and is named ``path/to/file.py:function``.
It gets NumPy arrays and returns the bytes of a model in a format that a bundle takes
(never a pickle); the model is then loaded and tried as one that was brought. Whether such
functions may run at all is the operator's to say.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from falaj.kernel.errors import InvalidInput
from falaj.training import networks
from falaj.training.adapters.function_child import HEAD
from falaj.training.encoding import Encoding
from falaj.training.environment import code_version
from falaj.training.model import CodeVersion
from falaj.training.parameters import check_learnable
from falaj.training.ports import UNKEPT, Checkpoints, FittedModel, Report, Rows, Scoring, Traits

FORMATS = ("lightgbm", "onnx", "python", "torch", "xgboost")
_CHILD = Path(__file__).with_name("function_child.py")
_MEMORY = Path("/dev/shm")  # noqa: S108 - rows stand in clear on no disk
_LOOK_SECONDS = 0.5
_MOST_TEXT, _MOST_MODEL = 1 << 20, 1 << 30
_MOST_SOURCE = 1 << 20
_LONGEST_ERROR = 2_000


class FunctionFailed(InvalidInput):
    """A user's training function raised, took too long, or returned what is no model."""

    code = "training-function-failed"


@dataclass(frozen=True)
class FunctionLimits:
    """What the process of a training function may use."""

    memory_bytes: int = 4 * 2**30
    """Of address space."""
    seconds: float = 3600.0
    """Of time, and of CPU time over all its threads; then it is killed."""
    threads: int = 1
    """That libraries of linear algebra start."""


class _Told(BaseModel):
    """What the child says; the function may have written anything."""

    error: str = ""
    format: str = ""
    facts: dict[str, float | str] = {}
    importance: dict[str, float] = {}


class FunctionTrainer:
    """Trains with a function that ``params`` name; ``options`` are handed to it as they are.

    It does not promise the same bytes again: that is the function's affair. It keeps no
    checkpoints; a cancelled job ends its process within a second.

    Args:
        find: the file of a name, in the folders that users' files may come from.
        scoring: loads and runs the model that comes back, as serving would.
        confining: a program with ``confined(libc, folder)``, which the child runs first.
        permitted: whether the operator lets functions run.
    """

    name = "python"
    traits = Traits(
        identical=False, stops_early=False, resumes=False, tasks=("binary", "regression")
    )

    def __init__(
        self,
        find: Callable[[str], Path],
        scoring: Scoring,
        confining: Path,
        *,
        permitted: bool,
        limits: FunctionLimits | None = None,
    ) -> None:
        self._find = find
        self._scoring = scoring
        self._confining = confining
        self._permitted = permitted
        self._limits = limits or FunctionLimits()

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``function`` and ``options``; see ``Trainer.parameters``."""
        if not self._permitted:
            raise InvalidInput(
                "Functions of users' own may not train on this platform.",
                hint="The operator permits them with the setting trainers.functions.",
            )
        unknown = sorted(set(given) - {"function", "options"})
        if unknown:
            raise InvalidInput(
                f"The trainer of functions has no parameter {unknown[0]!r}.",
                hint="It takes `function` and `options`; what is in options is the function's.",
            )
        function, options = given.get("function"), given.get("options", {})
        path, _, entry = str(function).rpartition(":")
        if not isinstance(function, str) or not path.endswith(".py") or not entry.isidentifier():
            raise InvalidInput(
                f"{function!r} names no function.",
                hint="Write path/to/file.py:function, relative to a data folder.",
            )
        if not isinstance(options, dict):
            raise InvalidInput(f"The parameter 'options' is {options!r}, not a dict.")
        return {"function": function, "options": options}

    def fit(
        self,
        train: Rows,
        validation: Rows,
        encoding: Encoding,
        *,
        params: Mapping[str, Any],
        seed: int,
        report: Report,
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        """Run the function, and try what it returns on the validation rows.

        Raises:
            FunctionFailed: it raised, took too long, or returned no model that could serve.
        """
        check_learnable(train, validation)
        full = self.parameters(params)
        folder = Path(tempfile.mkdtemp(prefix="falaj-function-", dir=_memory()))
        try:
            self._lay_out(folder, (train, validation), encoding, full, seed)
            told, model = self._run(folder, full["function"], report)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if told.format not in FORMATS:
            raise _failed(
                full["function"], f"it returned the format {told.format!r}, which is none of"
                f" {', '.join(FORMATS)}",
            )  # fmt: skip
        fitted = FittedModel(
            format=told.format,
            data=model,
            encoding=encoding,
            facts={**told.facts, "function": full["function"]},
            importance=told.importance,
        )
        scores = self.scores(fitted, validation.matrix)
        good, wanted = np.isfinite(scores).all(), "finite"
        if train.target.task == "binary":
            good, wanted = good and scores.min() >= 0 and scores.max() <= 1, "probabilities"
        if not good:
            raise _failed(full["function"], f"its model gives numbers that are not all {wanted}")
        return fitted

    def scores(
        self, fitted: FittedModel, matrix: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """The first output of the model, as serving would run it."""
        return self._scoring.of(fitted.format, fitted.data, fitted.encoding.names).scores(matrix)

    def code(self, params: Mapping[str, Any] | None = None) -> CodeVersion:
        """The user's file; this module where no function is named."""
        if params is None:
            return code_version(type(self))
        function = self.parameters(params)["function"]
        digest = hashlib.sha256(self._source(function)).hexdigest()
        return CodeVersion(content_hash=f"sha256:{digest}", entry=function)

    def _source(self, function: str) -> bytes:
        path = self._find(function.rpartition(":")[0])
        data = path.read_bytes()
        if len(data) > _MOST_SOURCE:
            raise InvalidInput(f"The file of {function!r} is too large for a module.")
        return data

    def _lay_out(
        self,
        folder: Path,
        parts: tuple[Rows, Rows],
        encoding: Encoding,
        params: Mapping[str, Any],
        seed: int,
    ) -> None:
        arrays: dict[str, Any] = {}
        for name, rows in zip(("train", "validation"), parts, strict=True):
            arrays |= {f"{name}_matrix": rows.matrix, f"{name}_labels": rows.labels}
            if rows.weights is not None:
                arrays[f"{name}_weights"] = rows.weights
        (folder / "rows.npz").write_bytes(networks.packed_arrays(arrays))
        (folder / "function.py").write_bytes(self._source(params["function"]))
        asked = {
            "function": params["function"].rpartition(":")[2],
            "options": params["options"],
            "names": encoding.names,
            "seed": seed,
        }
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")

    def _run(self, folder: Path, function: str, report: Report) -> tuple[_Told, bytes]:
        limits = self._limits
        answers, written = os.pipe2(os.O_CLOEXEC)
        threads = str(limits.threads)
        environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        try:
            started = subprocess.Popen(
                [sys.executable, "-I", "-B", str(_CHILD), str(folder), str(self._confining),
                 str(limits.memory_bytes), str(int(limits.seconds) + 1), str(written),
                 str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(written,), cwd=folder, start_new_session=True,
                env={**environment, "OMP_WAIT_POLICY": "PASSIVE", "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        finally:
            os.close(written)
        try:
            return self._answer(answers, function, report)
        finally:
            os.close(answers)
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()

    def _answer(self, answers: int, function: str, report: Report) -> tuple[_Told, bytes]:
        """What the child says; asks ``report`` again and again whether to go on."""
        until = time.monotonic() + self._limits.seconds
        data = bytearray()
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise _failed(function, f"it took longer than {self._limits.seconds:g} s")
            share = 1 - left / self._limits.seconds
            report(share, f"{function} runs, {len(data):,} bytes of a model")
            if not select.select([answers], [], [], min(left, _LOOK_SECONDS))[0]:
                continue
            part = os.read(answers, 1 << 20)
            data += part
            if len(data) >= HEAD.size:
                n_text, n_model = HEAD.unpack(data[: HEAD.size])
                if not (0 <= n_text <= _MOST_TEXT and 0 <= n_model <= _MOST_MODEL):
                    raise _failed(function, "its answer is too large")
                if len(data) >= HEAD.size + n_text + n_model:
                    break
            if not part:
                raise _failed(
                    function, "its process ended before it answered (it may need more memory than"
                    f" {self._limits.memory_bytes:,} bytes)",
                )  # fmt: skip
        try:
            told = _Told.model_validate_json(data[HEAD.size : HEAD.size + n_text])
        except ValidationError:
            raise _failed(function, "its answer cannot be read") from None
        if told.error:
            raise _failed(function, told.error[:_LONGEST_ERROR])
        return told, bytes(data[HEAD.size + n_text : HEAD.size + n_text + n_model])


def _memory() -> Path | None:
    return _MEMORY if _MEMORY.is_dir() else None


def _failed(function: str, why: str) -> FunctionFailed:
    return FunctionFailed(
        f"The training function {function!r} failed: {why}.",
        hint="Mend it: it takes (train, validation, *, names, seed, options) and returns a dict"
        " with `format` and `model`.",
    )
