"""The parts of serving, joined: the routing table, plans, the prediction log, the worker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from falaj.kernel.errors import Unavailable
from falaj.kernel.settings import private_folder
from falaj.kernel.telemetry import logger
from falaj.wiring.parts import part
from falaj.wiring.seldom import Beside, Seldom
from falaj.wiring.sharing import Shared

if TYPE_CHECKING:
    from falaj.serving.adapters.kept_trees import KeptTrees
    from falaj.serving.compiler import PlanCompiler
    from falaj.serving.inference import InferenceApp
    from falaj.serving.logwriter import LogWriter
    from falaj.serving.meters import Meters
    from falaj.serving.plans import Plans
    from falaj.serving.ports import FeatureReaders, Runtime
    from falaj.serving.predictionlog import PredictionLog
    from falaj.serving.releases import Releases
    from falaj.serving.rings import Ring
    from falaj.serving.rolloutreleases import RolloutReleases
    from falaj.serving.routing import RoutingTable
    from falaj.serving.storedfeatures import StoredFeatures
    from falaj.serving.trails import Trails
    from falaj.wiring.assembly import Premises


_ROUTED_SECONDS = 0.5
"""Chores are asked for about each second, and so is this: what was revoked on another machine
serves no longer than that here."""
_ROUTING: Shared[RoutingTable] = Shared()


def runtimes(made: Premises) -> list[Runtime]:
    """A runtime of each model format; each loads its library with its first model."""
    return runtimes_with(pickles=made.settings.supply_chain.pickles)


def runtimes_with(*, pickles: bool) -> list[Runtime]:
    """The same, where no platform is open: in a process that only runs models.

    Args:
        pickles: whether the settings permit pickled models.
    """
    from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
    from falaj.serving.adapters.runtime_onnx import OnnxRuntime
    from falaj.serving.adapters.runtime_pickle import PickleRuntime
    from falaj.serving.adapters.runtime_python import PythonRuntime
    from falaj.serving.adapters.runtime_torch import TorchRuntime
    from falaj.serving.adapters.runtime_xgboost import XgBoostRuntime

    return [OnnxRuntime(), LightGbmRuntime(), XgBoostRuntime(), TorchRuntime(), PythonRuntime(),
            PickleRuntime(permitted=pickles)]  # fmt: skip


class ServingParts:
    """What answers requests in one process, each part made when it is first asked for.

    Args:
        made: the rest of the platform.
    """

    def __init__(self, made: Premises) -> None:
        self._made = made
        self.making: threading.RLock = made.making

    @part
    def routing(self) -> RoutingTable:
        """Which release of each endpoint serves."""
        from falaj.serving.routing import RoutingTable

        folder = private_folder(self._made.settings.home / "routing")
        opened, give_back = _ROUTING.taken(folder, lambda: RoutingTable(folder, self._made.clock))
        self._made.closing.append(give_back)
        return opened

    @part
    def stored_features(self) -> StoredFeatures:
        """Compiles readers of feature services."""
        from falaj.serving.storedfeatures import StoredFeatures

        made = self._made
        return StoredFeatures(made.online, made.keys, made.definitions, made.subject_ciphers)

    @part
    def plan_compiler(self) -> PlanCompiler:
        """Compiles releases into request plans."""
        return self.compiler_on(self.stored_features)

    def compiler_on(self, features: FeatureReaders) -> PlanCompiler:
        """Compiles releases into request plans that read features from there."""
        from falaj.serving.adapters.runtime_trees import TreeRuntime
        from falaj.serving.bundled import BundledModels
        from falaj.serving.compiler import PlanCompiler

        served = runtimes(self._made)
        if self._made.settings.inference.trees == "compiled":
            # Of ONNX, which it wraps.
            served[0] = TreeRuntime(served[0], kept=lambda: self.kept_trees)
        return PlanCompiler(BundledModels(self._made.bundles), served, features)

    @part
    def kept_trees(self) -> KeptTrees:
        """Trees of models that were compiled on this machine before."""
        from falaj.serving.adapters.kept_trees import KeptTrees

        return KeptTrees(private_folder(self._made.settings.home / "trees"), self._made.keys)

    @part
    def releases(self) -> Releases:
        """Releases of endpoints."""
        from falaj.serving.bundled import RegisteredModels
        from falaj.serving.releases import Releases

        return Releases(
            self.routing,
            self.plan_compiler,
            RegisteredModels(self._made.registry),
            self.stored_features,
            self._made.catalog,
        )

    @part
    def rollout_releases(self) -> RolloutReleases:
        """Releases of rollouts, and how their units are divided."""
        from falaj.serving.bundled import RegisteredModels
        from falaj.serving.rolloutreleases import RolloutReleases

        return RolloutReleases(self.releases, self.routing, RegisteredModels(self._made.registry))

    @part
    def plans(self) -> Plans:
        """The compiled plans of this process."""
        from falaj.serving.plans import Plans

        keep_seconds = self._made.settings.inference.keep_seconds
        return Plans(self.routing, self.plan_compiler, keep_seconds=keep_seconds)

    @part
    def prediction_log(self) -> PredictionLog:
        """The buffer between answers and the spool."""
        return self._log(None)

    def _ring(self) -> Ring | None:
        """Memory that outlives this process; None where the machine has none to give."""
        from falaj.serving.rings import Ring, ring_folder

        try:
            folder = ring_folder(self._made.settings.home)
            return Ring(folder, self._made.settings.inference.log_bytes)
        except Unavailable as error:
            logger(__name__).warning("the worker writes its own log", reason=str(error))
            return None

    def log_writer(self) -> LogWriter:
        """Writes the prediction log of this machine's workers; raises Unavailable."""
        from falaj.serving.leftrings import remove_left_folders
        from falaj.serving.logwriter import LogWriter
        from falaj.serving.rings import Rings, ring_folder
        from falaj.serving.spools import DirectorySpools

        remove_left_folders()
        return LogWriter(
            Rings(ring_folder(self._made.settings.home)),
            DirectorySpools(self._made.spool_folder, self._made.keys),
            flush_seconds=self._made.settings.inference.flush_seconds,
        )

    def _log(self, ring: Ring | None) -> PredictionLog:
        from falaj.serving.predictionlog import PredictionLog
        from falaj.serving.spools import DirectorySpools

        settings = self._made.settings.inference
        return PredictionLog(
            DirectorySpools(self._made.spool_folder, self._made.keys),
            flush_rows=settings.flush_rows,
            flush_seconds=settings.flush_seconds,
            ring=ring,
            lost=lambda endpoint, n_rows: self.meters.of(endpoint).unlogged(n_rows),
        )

    @part
    def meters(self) -> Meters:
        """The counters that all workers of this machine share, under this process's name."""
        from falaj.serving.meters import Meters

        made = Meters(private_folder(self._made.settings.home / "meters"), self._made.process)
        self._made.closing.append(made.close)
        return made

    def _routed(self) -> None:
        """Bring this machine's routing table in step with the database, if it is not.

        Where a worker for jobs runs it does this too; a machine of inference workers alone
        has nobody else.
        """
        with self._made.database.reading() as connection:
            apart = self.releases.apart(connection)
        if apart:
            with self._made.database.transaction() as connection:
                mended = self.releases.reconcile(connection)
            logger(__name__).info("routing table brought in step", endpoints=mended)

    def _routed_if_possible(self) -> None:
        try:
            self._routed()
        except Exception:  # noqa: BLE001 - a worker serves on without the metadata database
            logger(__name__).exception("routing table not compared; it is tried again")

    def trails(self) -> Trails:
        """What becomes of single requests, as far as the settings ask for it."""
        from falaj.serving.accesslog import AccessLog
        from falaj.serving.trails import Trails
        from falaj.wiring.traces import request_spans

        settings = self._made.settings
        spans = request_spans(settings, self._made.process, dropped=self.meters.spans_dropped)
        place = settings.inference.access_log
        access = AccessLog(place, dropped=self.meters.lines_dropped) if place else None
        return Trails(ratio=settings.traces_ratio, spans=spans, access=access)

    def inference_app(self, worker: str, *, ring: bool = False) -> InferenceApp:
        """The application of an inference worker.

        Args:
            worker: its name.
            ring: True if a log writer runs on this machine, which takes its log.
        """
        from falaj.serving.inference import InferenceApp
        from falaj.serving.plans import Keeper
        from falaj.serving.sleeping import Sleeping
        from falaj.serving.workload import Workload
        from falaj.wiring.auditparts import refusals
        from falaj.wiring.dataplane import feature_planes
        from falaj.wiring.policyparts import questions_kept
        from falaj.wiring.readingparts import DataPlaneSight

        questions_kept(self._made)
        turned_away = refusals(self._made, via="inference").told
        idle = self._made.settings.inference.idle_seconds
        sleeping = Sleeping(self.plans, idle_seconds=idle)
        self._routed_if_possible()
        # Not on the keeper's thread: it may wait for the lock of an activation, which waits
        # for what the keeper prepares.
        beside = Beside(self._routed_if_possible, name="falaj-routed")
        routed = Seldom(beside, every_seconds=_ROUTED_SECONDS)

        def chores() -> None:
            sleeping.look()
            routed()

        trails = self.trails()
        app = InferenceApp(
            plans=self.plans,
            keeper=Keeper(self.plans, self.routing, worker=worker, also=chores),
            verifier=self._made.verifier,
            policy=self._made.policy,
            log=self._log(self._ring() if ring else None),
            meters=self.meters,
            trails=trails,
            sleeping=sleeping,
            workload=Workload(private_folder(self._made.settings.home / "workload") / worker),
            turned_away=turned_away,
            metrics_guard=self._made.certificates.metrics_guard(),
            explained=DataPlaneSight(self._made).explained,
        )
        app.add(feature_planes(self._made, app.admission))
        settings = self._made.settings.inference
        if settings.grpc_port:
            from falaj.serving.adapters.grpc_openinference import GrpcInference

            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            companion = GrpcInference(
                app.asking,
                f"{host}:{settings.grpc_port}",
                self._made.certificates.served(required=settings.client_ca_file),
                clients=settings.client_ca_file,
                most_bytes=settings.grpc_message_bytes,
                trails=trails,
                turned_away=turned_away,
            )
            app.accompany([companion])
        return app
