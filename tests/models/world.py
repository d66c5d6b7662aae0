"""Training and registry, assembled from real parts over one database and one folder.

A module of its own, so that a test's subprocess can assemble the same world and be killed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, FeatureService, FeatureView
from falaj.features.store import AppliedDefinitions, FeatureStore
from falaj.ingest.files import Files
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SystemClock
from falaj.kernel.jobs import Jobs, Worker
from falaj.kernel.outbox import Outbox
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.blobs import SealedBlobs
from falaj.lake.streams import SealedStreams
from falaj.models.adapters.int8_onnxruntime import Int8Quantizer
from falaj.models.adapters.onnx_calibration import calibrated
from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
from falaj.models.adapters.onnx_network import NetworkToOnnx
from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
from falaj.models.adapters.onnx_xgboost import XgBoostToOnnx
from falaj.models.adoption import Adopting
from falaj.models.aliases import ALIAS_CHANGE
from falaj.models.brought import Bringing, BringJob, found
from falaj.models.bundles import Bundles
from falaj.models.cards import Cards
from falaj.models.gate_job import GateJob
from falaj.models.gates import Gates
from falaj.models.gating.asking import GateAsking
from falaj.models.model import (
    BRING_JOB,
    GATES_JOB,
    QUANTIZE_JOB,
    MetricRule,
    ModelPolicy,
    SliceRule,
)
from falaj.models.packaging import ModelPackaging
from falaj.models.promotion import CHANGE_KIND, Promotions
from falaj.models.quantized import QuantizeJob
from falaj.models.registered import RegistryParts
from falaj.models.registry import Registry
from falaj.models.revocations import Revocations
from falaj.models.service import ModelService
from falaj.operations.changes import Changes
from falaj.operations.service import ChangeService
from falaj.serving.adapters import python_child
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_pickle import PickleRuntime
from falaj.serving.adapters.runtime_python import PythonRuntime
from falaj.serving.adapters.runtime_xgboost import XgBoostRuntime
from falaj.serving.heldversions import HeldVersions
from falaj.serving.scorers import RuntimeScorers
from falaj.testing.calls import make_caller, make_door, opened_call
from falaj.testing.fakes import MemoryAudit
from falaj.testing.seeing import whole
from falaj.training.adapters.trainer_function import FunctionTrainer
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.adapters.trainer_sklearn import SklearnTrainer
from falaj.training.adapters.trainer_torch import TorchTrainer
from falaj.training.adapters.trainer_xgboost import XgBoostTrainer
from falaj.training.artifacts import Artifacts
from falaj.training.definition_pins import CatalogPins
from falaj.training.model import (
    PREPARE_JOB,
    RECREATE_JOB,
    REPRODUCE_JOB,
    TRAIN_JOB,
    TimeSplit,
    TrainingRequest,
    TrainingSetSpec,
)
from falaj.training.reproduce import ReproduceJob
from falaj.training.service import RunService, TrainingService
from falaj.training.tracking.pageseal import PageSeal
from falaj.training.tracking.runs import Runs
from falaj.training.tracking.searching import RunSearch
from falaj.training.train import PrepareJob, RecreateJob, TrainJob
from falaj.training.training_sets import TrainingSets
from falaj.training.use import DataUse, Reproducing
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
SPLIT = TimeSplit(
    train_until=BEGIN + timedelta(days=60), validation_until=BEGIN + timedelta(days=80)
)
SPEC = TrainingSetSpec(
    feature_service="delays", label="late", spine="departures", timestamp="at",
    knowledge="event", split=SPLIT,
)  # fmt: skip
SMALL = {"n_trees": 60, "min_data_in_leaf": 50, "num_leaves": 15, "num_threads": 1}
REQUEST = TrainingRequest(model="late", spec=SPEC, params=SMALL)
CONVERTERS = {
    "lightgbm": LightGbmToOnnx(), "xgboost": XgBoostToOnnx(), "network": NetworkToOnnx(),
}  # fmt: skip
KINDS = {one.kind: one for one in (Entity, FeatureView, FeatureService, ModelPolicy)}
POLICY = ModelPolicy(
    name="late",
    feature_service="delays",
    label="late",
    intended_use="Warns of late departures.",
    limitations="Made-up rows | not <b>real</b> ones.",
    floors=(MetricRule(metric="auc", limit=0.7), MetricRule(metric="brier", limit=0.25)),
    slices=(SliceRule(columns=("carrier",), limit=0.6, least_rows=50),),
    calibration=0.2,
    latency=None,
)
DEFINITIONS = (
    Entity(name="carrier", keys={"carrier": "string"}),
    FeatureView(
        name="recent", entity="carrier", source="arrivals", event_time="landed_at",
        aggregates=(
            Aggregate("mean_1d", "mean", "delay", window=timedelta(days=1)),
            Aggregate("count_1d", "count", window=timedelta(days=1)),
        ),
    ),
    FeatureService(
        name="delays", features=("recent",),
        request_fields={"signal": "float64", "carrier": "string"},
    ),
    POLICY,
)  # fmt: skip


def departures(n=4000, days=100, seed=1):
    """Made-up departures whose label a feature tells with an AUC of about 0.8."""
    random = np.random.default_rng(seed)
    at = BEGIN + timedelta(days=1)
    seconds = np.sort(random.integers(0, (days - 1) * 86_400, n))
    carriers = np.array(["AA", "UA", "WN"])[random.integers(0, 3, n)]
    signal = random.normal(size=n)
    logits = 1.3 * signal + np.where(carriers == "WN", 0.8, -0.4)
    late = random.random(n) < 1 / (1 + np.exp(-logits))
    known = [None if place % 97 == 0 else bool(value) for place, value in enumerate(late)]
    instants = [at + timedelta(seconds=int(s)) for s in seconds]
    utc = pa.timestamp("us", "UTC")
    spine = pa.table(
        {
            "carrier": carriers.tolist(),
            "signal": np.where(random.random(n) < 0.05, np.nan, signal),
            "flight": np.arange(n),
            "at": pa.array(instants, utc),
            "late": known,
        }
    )
    events = pa.table(
        {
            "carrier": carriers.tolist(),
            "landed_at": pa.array([one + timedelta(hours=3) for one in instants], utc),
            "delay": np.where(late, 30.0, 0.0) + random.normal(size=n),
        }
    )
    return spine, events


class Nothing:
    """What serves here: nothing."""

    def withdraw(self, call, revoked):
        return []


class World:
    """Everything that a test needs, joined as the platform joins it."""

    def __init__(self, database, folder, *, jobs_lease=timedelta(seconds=30)):
        clock = SystemClock()
        self.database = database
        ring = folder / "ring.json"
        seal = (
            MachineSeal(folder / "seal") if ring.exists() else MachineSeal.create(folder / "seal")
        )
        opened = FileKeyring if ring.exists() else FileKeyring.create
        self.keys = opened(ring, seal, clock=clock)
        self.store = LocalBlobs(folder / "blobs")
        self.blobs = SealedBlobs(self.store, self.keys)
        self.lake = DuckLake.in_folder(folder / "lake", threads=1, memory="1GB")
        self.catalog = Catalog()
        self.definitions = Definitions(self.catalog, KINDS, {})
        self.features = FeatureStore(
            AppliedDefinitions(database, self.definitions), self.lake,
            LmdbOnlineStore(folder / "online", map_bytes=1 << 22), self.keys, clock,
        )  # fmt: skip
        self.audit = MemoryAudit()
        self.calls = Calls(database, self.audit, Outbox(), clock)
        self.jobs = Jobs(database, clock, lease=jobs_lease)
        self.sets = TrainingSets(
            self.lake, self.features, CatalogPins(self.definitions), self.catalog
        )
        self.runs = Runs(self.catalog)
        self.bundles = Bundles(self.blobs, self.keys)
        self.registry = Registry(self.bundles, self.catalog, self.definitions)
        self.scorers = RuntimeScorers(
            [OnnxRuntime(), LightGbmRuntime(), XgBoostRuntime(), PythonRuntime(),
             PickleRuntime(permitted=True)]
        )  # fmt: skip
        self.packaging = ModelPackaging(
            CONVERTERS, self.scorers, self.bundles, self.registry, calibrate=calibrated
        )
        self.gates = Gates(self.bundles, self.scorers)
        self.trainer = LightGbmTrainer()
        (folder / "data").mkdir(exist_ok=True)
        self.files = Files([folder / "data"])
        functions = FunctionTrainer(
            lambda name: found(self.files, name, "The function"),
            self.scorers,
            Path(python_child.__file__),
            permitted=True,
        )
        others = [XgBoostTrainer(), SklearnTrainer(SklearnToOnnx().convert), TorchTrainer()]
        self.trainers = {one.name: one for one in (self.trainer, functions, *others)}
        self.gate_job = GateJob(self.calls, self.registry, self.gates, self.sets, self.catalog)
        handlers = {}
        self.changes = Changes(self.catalog, handlers)
        self.bringing = Bringing(self.files, self.registry, self.sets, self.jobs, pickles=True)
        self.promotions = Promotions(self.registry, self.changes)
        self.parts = RegistryParts.of(
            self.registry, self.promotions, self.changes, self.catalog,
            lambda call, resource: resource.exists, HeldVersions(),
        )  # fmt: skip
        self.changes._handlers[CHANGE_KIND] = self.promotions.apply
        self.changes._handlers[ALIAS_CHANGE] = self.parts.aliases.apply

    def services(self):
        """The services of training and models, and changes."""
        visible = lambda call, resource: resource.exists  # noqa: E731
        return [
            TrainingService(
                self.sets, self.jobs, self.catalog, visible, lambda _call, _action, _on: True,
                whole(self.lake),
            ),
            RunService(
                self.runs, RunSearch(visible, lambda _call: False), self.catalog, visible,
                lambda _call, _action, _on: True,
                Artifacts(SealedStreams(self.store, self.keys), self.blobs),
                Reproducing(
                    self.sets, self.jobs,
                    DataUse(self.catalog, lambda _call, _action, _on: True, whole(self.lake)),
                ),
                PageSeal(lambda: bytes(32)),
            ),
            ModelService(
                parts=self.parts, promotions=self.promotions, bundles=self.bundles,
                runs=self.runs, jobs=self.jobs, catalog=self.catalog, visible=visible,
                bringing=self.bringing, adopting=Adopting(self.registry, self.sets, self.jobs),
                revocations=Revocations(self.bundles, Nothing()),
                gates=GateAsking(
                    self.registry, self.sets, whole(self.lake), self.catalog, self.jobs
                ),
                cards=Cards(self.registry, self.bundles, self.sets),
            ),
            ChangeService(self.changes, self.catalog, visible),
        ]  # fmt: skip

    def door(self, principal="user:amina"):
        """A door with a fresh second factor."""
        caller = make_caller(principal, mfa_at=SystemClock().now())
        return make_door(
            self.database, self.services(), caller=caller, audit=self.audit, resources=self.catalog
        )

    def worker(self, name="one"):
        """A worker with the handlers of both rooms."""
        train = TrainJob(
            calls=self.calls, training_sets=self.sets, runs=self.runs,
            trainers=self.trainers, packaging=self.packaging, blobs=self.blobs,
        )  # fmt: skip
        reproduce = ReproduceJob(
            calls=self.calls, training_sets=self.sets, runs=self.runs, trainers=self.trainers,
            blobs=self.blobs,
        )  # fmt: skip
        handlers = {
            TRAIN_JOB: train,
            REPRODUCE_JOB: reproduce,
            PREPARE_JOB: PrepareJob(self.calls, self.sets),
            RECREATE_JOB: RecreateJob(self.calls, self.sets),
            GATES_JOB: self.gate_job,
            QUANTIZE_JOB: QuantizeJob(
                self.calls, self.registry, self.bundles, Int8Quantizer(), self.scorers, self.sets
            ),
            BRING_JOB: BringJob(
                self.calls,
                self.files,
                self.registry,
                self.bundles,
                self.scorers,
                self.sets,
                pickles=True,
            ),
        }
        return Worker(self.jobs, handlers, name=name)

    def fill(self, **options):
        """Write the made-up data and apply the definitions."""
        spine, events = departures(**options)
        self.lake.append_many({"departures": spine, "arrivals": events})
        with opened_call(self.database) as call:
            self.definitions.apply(call, DEFINITIONS)

    def submitted(self, kind, arguments, principal="user:amina"):
        """Submit a job; returns its id."""
        with opened_call(self.database, principal) as call:
            return self.jobs.submit(call, kind, arguments).id

    def done(self, kind, arguments, principal="user:amina"):
        """Submit a job and run it; returns the ended job."""
        job = self.submitted(kind, arguments, principal)
        assert self.worker().run_one()
        with self.database.reading() as connection:
            return self.jobs.get(connection, job)

    def close(self):
        """Let go of files."""
        self.lake.close()
