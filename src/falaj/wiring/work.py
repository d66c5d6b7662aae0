"""What the worker process does: the handlers of jobs, and the house's chores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import FalajError
from falaj.kernel.jobs import Handler, JobRun, Worker
from falaj.kernel.outbox import Subscription
from falaj.kernel.telemetry import logger
from falaj.trust.audit_checkpoints import Checkpointer
from falaj.wiring import webhookparts
from falaj.wiring.anomalyparts import anomaly_chores, contract_jobs
from falaj.wiring.artifactparts import artifact_chores
from falaj.wiring.auditparts import retention
from falaj.wiring.computeparts import queue_chores
from falaj.wiring.keyparts import EVERY_USES, key_jobs, uses_told
from falaj.wiring.liveparts import kept_sketches, prediction_drain
from falaj.wiring.operationparts import alert_sender, operation_chores
from falaj.wiring.pipelineparts import chores as pipeline_chores
from falaj.wiring.registryparts import adoption
from falaj.wiring.retrainingparts import chores as retraining_chores
from falaj.wiring.retrainingparts import retraining_jobs
from falaj.wiring.rolloutparts import RolloutParts
from falaj.wiring.seldom import Seldom
from falaj.wiring.trainingparts import reproduce_job, train_job
from falaj.wiring.watching import parity_checks, statistics

if TYPE_CHECKING:
    from falaj.features.streams.worker import StreamWorker
    from falaj.models.brought import BringJob
    from falaj.wiring.assembly import Premises

EVERY_SECONDS = 0.5
_TILES_KEPT = timedelta(days=1)
"""How far back an online read may ask and still find every tile of its windows."""


def handlers(made: Premises) -> Mapping[str, Handler]:
    """What does each kind of job, made when the first job of the kind is run.

    What cannot be made (a disk is full, a package is missing) fails that job, and no other.
    """
    from falaj.features.service import FORGET, MATERIALIZE
    from falaj.ingest.service import LOAD
    from falaj.models.model import ADOPT_JOB, BRING_JOB, GATES_JOB, QUANTIZE_JOB
    from falaj.serving.batchmodel import SCORE_JOB
    from falaj.training.model import PREPARE_JOB, RECREATE_JOB, REPRODUCE_JOB, TRAIN_JOB
    from falaj.training.pipelines.model import RUN_JOB
    from falaj.training.tuning.model import TUNE_JOB

    makers: dict[str, Callable[[], Handler]] = {
        LOAD: lambda: _with_statistics(made, made.loading),
        MATERIALIZE: lambda: _materialization(made),
        FORGET: lambda: _forgetting(made),
        PREPARE_JOB: lambda: _preparation(made),
        RECREATE_JOB: lambda: _recreation(made),
        TRAIN_JOB: lambda: train_job(made),
        REPRODUCE_JOB: lambda: reproduce_job(made),
        GATES_JOB: lambda: _gates(made),
        BRING_JOB: lambda: _bringing(made),
        ADOPT_JOB: lambda: adoption(made, _bringing(made)),
        QUANTIZE_JOB: lambda: _quantizing(made),
        SCORE_JOB: lambda: _scoring(made),
        TUNE_JOB: lambda: _tuning(made),
        RUN_JOB: made.pipelines.handler,
        **key_jobs(made),
        **contract_jobs(made),
        **retraining_jobs(made),
    }
    return {kind: _later(make) for kind, make in makers.items()}


def _later(make: Callable[[], Handler]) -> Handler:
    """A handler that is made at its first job."""

    @cache
    def made() -> Handler:
        return make()

    def handle(run: JobRun, arguments: Mapping[str, Any]) -> Any:
        return made()(run, arguments)

    return handle


def _materialization(made: Premises) -> Handler:
    from falaj.features.materialization import Materialization

    return _with_statistics(made, Materialization(made.features, made.calls))


def _with_statistics(made: Premises, handler: Handler) -> Handler:
    """A handler that brings rows, and the statistics of what it brought."""

    def handle(run: JobRun, arguments: Mapping[str, Any]) -> Any:
        result = handler(run, arguments)
        try:
            statistics(made).update_all()
        except Exception:  # noqa: BLE001
            # Whatever it is: the rows are there, and the chore tries again.
            logger(__name__).exception("no statistics of what a job brought", job=run.id)
        return result

    return handle


def _forgetting(made: Premises) -> Handler:
    from falaj.features.versions import Forgetting

    return Forgetting(made.features.definitions, made.online, made.calls)


def _preparation(made: Premises) -> Handler:
    from falaj.training.train import PrepareJob

    return PrepareJob(made.calls, made.training_sets)


def _recreation(made: Premises) -> Handler:
    from falaj.training.train import RecreateJob

    return RecreateJob(made.calls, made.training_sets)


def _gates(made: Premises) -> Handler:
    from falaj.models.gate_job import GateJob
    from falaj.models.gates import Gates
    from falaj.serving.scorers import RuntimeScorers
    from falaj.wiring.servingparts import runtimes
    from falaj.wiring.supplyparts import advisories
    from falaj.wiring.weighing import FreshProcess

    gates = Gates(
        made.bundles,
        RuntimeScorers(runtimes(made)),
        advisories(made),
        FreshProcess(pickles=made.settings.supply_chain.pickles),
    )
    return GateJob(made.calls, made.registry, gates, made.training_sets, made.catalog)


def _bringing(made: Premises) -> BringJob:
    from falaj.models.brought import BringJob
    from falaj.serving.scorers import RuntimeScorers
    from falaj.wiring.servingparts import runtimes

    return BringJob(
        made.calls,
        made.data_files,
        made.registry,
        made.bundles,
        RuntimeScorers(runtimes(made)),
        made.training_sets,
        pickles=made.settings.supply_chain.pickles,
    )


def _quantizing(made: Premises) -> Handler:
    from falaj.models.adapters.int8_onnxruntime import Int8Quantizer
    from falaj.models.quantized import QuantizeJob
    from falaj.serving.scorers import RuntimeScorers
    from falaj.wiring.servingparts import runtimes

    return QuantizeJob(
        made.calls,
        made.registry,
        made.bundles,
        Int8Quantizer(),
        RuntimeScorers(runtimes(made)),
        made.training_sets,
    )


def _scoring(made: Premises) -> Handler:
    from falaj.wiring.scoring import scoring

    return scoring(made)


def _tuning(made: Premises) -> Handler:
    from falaj.wiring.tuningparts import tuning

    return tuning(made)


def stream_worker(made: Premises) -> StreamWorker:
    """What brings the events of streams online and into the lake."""
    from falaj.features.streams.worker import StreamWorker

    settings = made.settings.streams
    return StreamWorker(
        made.features.streams,
        lake_seconds=settings.lake_seconds,
        lake_rows=settings.lake_rows,
    )


def work_on_jobs(made: Premises, stopped: threading.Event) -> None:
    """Take and run jobs until ``stopped`` is set; runs of pipelines in threads of their own."""
    from falaj.training.pipelines.model import RUN_JOB
    from falaj.wiring.pipelineparts import work_on_pipelines

    others = {kind: handler for kind, handler in made.handlers.items() if kind != RUN_JOB}
    threads = work_on_pipelines(made, stopped)
    Worker(made.jobs, others, name=f"{made.process}-{os.getpid()}").run_until(stopped)
    for thread in threads:
        thread.join()


def work_until(made: Premises, stopped: threading.Event) -> None:
    """Run jobs, streams and chores side by side until ``stopped`` is set."""
    beside = {
        "chores": Chores(made).run_until,
        "streams": stream_worker(made).run_until,
        "webhooks": webhookparts.sender(made).run_until,
        "rollouts": RolloutParts(made).engine().run_until,
        "alerts": alert_sender(made).run_until,
    }
    threads = [
        threading.Thread(target=run, args=(stopped,), name=name) for name, run in beside.items()
    ]
    for thread in threads:
        thread.start()
    made.work_on_jobs(stopped)
    for thread in threads:
        thread.join()


def _as_settings_say(made: Premises) -> dict[str, Callable[[], object]]:
    """The chores that only some settings ask for."""
    chores: dict[str, Callable[[], object]] = {}
    kept = retention(made)
    if kept is not None:
        chores["audit retention"] = Seldom(kept.run_once, every_seconds=3600.0)

    def parity() -> None:
        parity_checks(made).all_checked(made.calls, seed=int(monotonic()))

    if made.settings.parity_minutes:
        chores["parity"] = Seldom(parity, every_seconds=60 * made.settings.parity_minutes)
    return chores


class Chores:
    """What must be done again and again: checkpoints of the audit log, the prediction log's
    way into the lake, news to those who asked for them."""

    def __init__(self, made: Premises) -> None:
        from falaj.operations.adapters.notifier_log import LogNotifier
        from falaj.operations.notifications import SUBSCRIBER, Notifications
        from falaj.serving.logalarm import UnloggedAlarm
        from falaj.serving.scalingrecords import ScalingRecords
        from falaj.serving.scalingtable import bring_in

        self._log = logger(__name__)
        checkpointer = Checkpointer(
            made.database, made.checkpoints, clock=made.clock, witness=made.witness
        )
        news = Subscription(
            made.database, SUBSCRIBER, Notifications(made.catalog, [LogNotifier()]).handle
        )

        def routed() -> None:
            with made.database.transaction() as connection:
                mended = made.serving.releases.reconcile(connection)
            if mended:
                self._log.warning("routing table mended", endpoints=mended)

        scalings = ScalingRecords(made.settings.home / "scaling")

        def endpoints() -> list[str]:
            with made.database.reading() as connection:
                return [one.name for one in made.serving.releases.listed(connection)]

        def unlogged(endpoint: str) -> int:
            return made.serving.meters.traffic(endpoint).unlogged

        alarm = UnloggedAlarm(endpoints, unlogged, made.alerts, made.calls)

        def tiles_let_go() -> None:
            made.features.let_go(made.clock.now() - _TILES_KEPT)

        self._chores: dict[str, Callable[[], object]] = {
            "routing table": Seldom(routed, every_seconds=5.0),
            "audit checkpoint": checkpointer.run_once,
            "notifications": news.deliver,
            "webhooks": webhookparts.events(made).deliver,
            "uses of keys": Seldom(lambda: uses_told(made), every_seconds=EVERY_USES),
            "prediction log": prediction_drain(made).run_once,
            "unlogged predictions": Seldom(alarm.run_once, every_seconds=10.0),
            "scaling decisions": lambda: bring_in(scalings, made.calls),
            "feature statistics": Seldom(lambda: statistics(made).update_all(), every_seconds=60.0),
            "expired tiles": Seldom(tiles_let_go, every_seconds=3600.0),
            "old sketches": Seldom(kept_sketches(made).roll_up, every_seconds=600.0),
            "lake compaction": Seldom(made.lake.compact, every_seconds=3600.0),
        }
        self._chores |= _as_settings_say(made) | artifact_chores(made) | queue_chores(made)
        self._chores |= anomaly_chores(made) | pipeline_chores(made) | retraining_chores(made)
        self._chores |= operation_chores(made)

    def run_once(self) -> None:
        """Each chore once; what fails is logged and tried again next time."""
        for name, chore in self._chores.items():
            try:
                chore()
            except FalajError as error:
                self._log.warning("chore failed; it is tried again", chore=name, error=str(error))
            except Exception:  # noqa: BLE001
                # Whatever it is: one chore must not end the others for good.
                self._log.exception("chore failed; it is tried again", chore=name)

    def run_until(self, stopped: threading.Event) -> None:
        """Do the chores until ``stopped`` is set, and once more then."""
        while not stopped.wait(EVERY_SECONDS):
            self.run_once()
        self.run_once()
