"""The trainers, the packaging of what they make, and the jobs that use both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from falaj.kernel.call import Call
    from falaj.kernel.fairqueue import Claim
    from falaj.kernel.jobs import Handler
    from falaj.lake.reading import GuardedLake
    from falaj.models.packaging import ModelPackaging
    from falaj.models.ports import OnnxConverter
    from falaj.training.model import Run
    from falaj.training.ports import Scoring, Trainer
    from falaj.training.use import Reproducing
    from falaj.wiring.assembly import Premises


def trainers(made: Premises) -> dict[str, Trainer]:
    """The trainers by name; each loads its library at its first fit."""
    from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
    from falaj.training.adapters.trainer_function import FunctionLimits, FunctionTrainer
    from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
    from falaj.training.adapters.trainer_sklearn import SklearnTrainer
    from falaj.training.adapters.trainer_torch import TorchTrainer
    from falaj.training.adapters.trainer_xgboost import XgBoostTrainer

    settings = made.settings.trainers
    limits = FunctionLimits(settings.function_memory_bytes, settings.function_seconds)
    known: tuple[Trainer, ...] = (
        LightGbmTrainer(),
        XgBoostTrainer(),
        SklearnTrainer(SklearnToOnnx().convert),
        TorchTrainer(),
        FunctionTrainer(
            lambda name: _found(made, name),
            _scoring(made),
            _confining(),
            permitted=settings.functions,
            limits=limits,
        ),
    )
    return {one.name: one for one in known}


def packaging(made: Premises) -> ModelPackaging:
    """What turns a fitted model into a signed bundle."""
    from falaj.models.adapters.onnx_calibration import calibrated
    from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
    from falaj.models.adapters.onnx_network import NetworkToOnnx
    from falaj.models.adapters.onnx_xgboost import XgBoostToOnnx
    from falaj.models.packaging import ModelPackaging
    from falaj.serving.scorers import RuntimeScorers
    from falaj.wiring.servingparts import runtimes

    converters: dict[str, OnnxConverter] = {
        "lightgbm": LightGbmToOnnx(),
        "xgboost": XgBoostToOnnx(),
        "network": NetworkToOnnx(),
    }
    return ModelPackaging(
        converters,
        RuntimeScorers(runtimes(made)),
        made.bundles,
        made.registry,
        calibrate=calibrated,
    )


def train_job(made: Premises) -> Handler:
    """Handles ``training.train``."""
    from falaj.training.train import TrainJob
    from falaj.wiring.computeparts import fits

    return TrainJob(
        calls=made.calls,
        training_sets=made.training_sets,
        runs=made.runs,
        trainers=trainers(made),
        packaging=packaging(made),
        blobs=made.blobs,
        fits=fits(made),
    )


def reproduce_job(made: Premises) -> Handler:
    """Handles ``runs.reproduce``."""
    from falaj.training.reproduce import ReproduceJob
    from falaj.wiring.computeparts import fits

    return ReproduceJob(
        calls=made.calls,
        training_sets=made.training_sets,
        runs=made.runs,
        trainers=trainers(made),
        blobs=made.blobs,
        fits=fits(made),
    )


def reproducing(made: Premises, guarded: GuardedLake) -> Reproducing:
    """What starts the reproduction of a run, for whoever may train on its data."""
    from falaj.training.products import fetched_request
    from falaj.training.use import DataUse, Reproducing
    from falaj.wiring.computeparts import run_queue

    queue = run_queue(made)

    def claim(call: Call, run: Run) -> Claim:
        request = fetched_request(made.blobs, run)
        # Whoever asks pays, from a team of their own.
        return queue.claim(call, request.model_copy(update={"team": None}))

    use = DataUse(made.catalog, made.may, guarded)
    return Reproducing(made.training_sets, made.jobs, use, claim)


def _scoring(made: Premises) -> Scoring:
    from falaj.serving.scorers import RuntimeScorers
    from falaj.wiring.servingparts import runtimes

    return RuntimeScorers(runtimes(made))


def _confining() -> Path:
    """The program that confines a process before it runs what a user wrote."""
    from pathlib import Path

    from falaj.serving.adapters import python_child

    return Path(python_child.__file__)


def _found(made: Premises, name: str) -> Path:
    from falaj.models.brought import found

    return found(made.data_files, name, "The function")
