"""What the worker process does: the handlers of jobs, and the house's chores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import FalajError
from falaj.kernel.jobs import Handler
from falaj.kernel.outbox import Subscription
from falaj.kernel.telemetry import logger
from falaj.trust.audit_checkpoints import Checkpointer

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises

EVERY_SECONDS = 0.5


def handlers(made: Premises) -> Mapping[str, Handler]:
    """What does each kind of job."""
    from falaj.features.materialization import Materialization
    from falaj.features.service import MATERIALIZE
    from falaj.ingest.service import LOAD
    from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
    from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
    from falaj.models.gate_job import GateJob
    from falaj.models.gates import Gates
    from falaj.models.model import GATES_JOB
    from falaj.models.packaging import ModelPackaging
    from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
    from falaj.training.model import PREPARE_JOB, RECREATE_JOB, TRAIN_JOB
    from falaj.training.train import PrepareJob, RecreateJob, TrainJob

    scorers = OnnxScorers()
    return {
        LOAD: made.loading,
        MATERIALIZE: Materialization(made.features, made.calls),
        PREPARE_JOB: PrepareJob(made.calls, made.training_sets),
        RECREATE_JOB: RecreateJob(made.calls, made.training_sets),
        TRAIN_JOB: TrainJob(
            calls=made.calls,
            training_sets=made.training_sets,
            runs=made.runs,
            trainers={"lightgbm": LightGbmTrainer()},
            packaging=ModelPackaging(LightGbmToOnnx(), scorers, made.bundles, made.registry),
            blobs=made.blobs,
        ),
        GATES_JOB: GateJob(
            made.calls, made.registry, Gates(made.bundles, scorers), made.training_sets
        ),
    }


class Seldom:
    """A chore that is done once in a while, however often it is called."""

    def __init__(self, chore: Callable[[], object], *, every_seconds: float) -> None:
        self._chore = chore
        self._every = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        if monotonic() >= self._due:
            self._chore()
            self._due = monotonic() + self._every


class Chores:
    """What must be done again and again: checkpoints of the audit log, the prediction log's
    way into the lake, news to those who asked for them."""

    def __init__(self, made: Premises) -> None:
        from falaj.operations.adapters.notifier_log import LogNotifier
        from falaj.operations.notifications import SUBSCRIBER, Notifications
        from falaj.serving.spools import PredictionDrain

        self._log = logger(__name__)
        checkpointer = Checkpointer(
            made.database, made.checkpoints, clock=made.clock, witness=made.witness
        )
        news = Subscription(
            made.database, SUBSCRIBER, Notifications(made.catalog, [LogNotifier()]).handle
        )

        def routed() -> None:
            with made.database.transaction() as connection:
                mended = made.releases.reconcile(connection)
            if mended:
                self._log.warning("routing table mended", endpoints=mended)

        self._chores: dict[str, Callable[[], object]] = {
            "routing table": Seldom(routed, every_seconds=5.0),
            "audit checkpoint": checkpointer.run_once,
            "notifications": news.deliver,
            "prediction log": PredictionDrain(made.spool_folder, made.keys, made.lake).run_once,
            "lake compaction": Seldom(made.lake.compact, every_seconds=3600.0),
        }

    def run_once(self) -> None:
        """Each chore once; what fails is logged and tried again next time."""
        for name, chore in self._chores.items():
            try:
                chore()
            except FalajError as error:
                self._log.warning("chore failed; it is tried again", chore=name, error=str(error))
            except Exception:  # noqa: BLE001 - see the next line
                # Whatever it is: one chore must not end the others for good.
                self._log.exception("chore failed; it is tried again", chore=name)

    def run_until(self, stopped: threading.Event) -> None:
        """Do the chores until ``stopped`` is set, and once more then."""
        while not stopped.wait(EVERY_SECONDS):
            self.run_once()
        self.run_once()
