"""The words of the registry: versions, stages, bundles, gates and what a model must keep."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from falaj.catalog.definitions import Definition
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict
from falaj.training.encoding import Encoding
from falaj.training.model import Name

GATES_JOB = "models.gates"
BRING_JOB = "models.bring"
ADOPT_JOB = "models.adopt"
QUANTIZE_JOB = "models.quantize"
Metric = Literal["auc", "log_loss", "brier", "calibration_error"]
Share = Annotated[float, Field(ge=0, le=1)]
ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9_. \-]*[A-Za-z0-9_.\-])?$",
    ),
]
"""Letters, digits, ``_``, ``.``, ``-`` and, between them, spaces."""
AliasName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_\-]+$")]
GUARDED_ALIASES = ("champion", "production", "staging")


class ModelFormat(StrEnum):
    """How a model's file is written. All but one are refused if they are a pickle."""

    ONNX = "onnx"
    LIGHTGBM = "lightgbm"  # the text of Booster.save_model
    XGBOOST = "xgboost"  # JSON or UBJSON
    TORCH = "torch"  # a .pt2 archive of torch.export
    PYTHON = "python"  # a module with a class Model, or a zip archive with model.py
    PICKLE = "pickle"  # of scikit-learn, by exact names alone, and only where settings permit it

    @property
    def file(self) -> str:
        """The name of such a model in a bundle."""
        return _FILES[self]


_FILES = {
    ModelFormat.ONNX: "model.onnx",
    ModelFormat.LIGHTGBM: "model.lightgbm",
    ModelFormat.XGBOOST: "model.xgboost",
    ModelFormat.TORCH: "model.pt2",
    ModelFormat.PYTHON: "model.python",
    ModelFormat.PICKLE: "model.pickle",
}


class GatesNotPassed(Conflict):
    """A version may not take a stage: a gate failed, or none was run."""

    code = "gates-not-passed"


class NotAdopted(Conflict):
    """A version of an MLflow client has no bundle yet, so that nothing here can run it."""

    code = "not-adopted"


class Stage(StrEnum):
    """What a version is used for."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"

    @property
    def guarded(self) -> bool:
        """True if a version needs passed gates to take this stage."""
        return self in (Stage.STAGING, Stage.PRODUCTION)


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricRule(_Rule):
    """A metric on the test rows must reach a floor (or stay under a ceiling for losses)."""

    metric: Metric = "auc"
    limit: float


class ChampionRule(_Rule):
    """The version must not be worse than the one in production, on the same test rows.

    ``not_worse``: the difference's confidence interval must reach above ``-margin``;
    ``better``: all of it must lie above 0. The difference counts in the good direction.
    """

    metric: Metric = "auc"
    require: Literal["not_worse", "better"] = "not_worse"
    margin: Annotated[float, Field(ge=0)] = 0.0
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class SliceRule(_Rule):
    """No slice may be surely worse than a limit: its interval must touch the good side."""

    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Each column is sliced by itself: by its words or numbers."""
    metric: Literal["auc"] = "auc"
    limit: Share
    least_rows: Annotated[int, Field(ge=2)] = 200
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class LatencyRule(_Rule):
    """Single rows through the packaged model on one CPU thread, in milliseconds."""

    p50_ms: Annotated[float, Field(gt=0)] = 1.0
    p99_ms: Annotated[float, Field(gt=0)] = 5.0
    n_rows: Annotated[int, Field(ge=1000)] = 2000
    """Distinct rows; fewer than 1,000 make a tree model look faster than it is."""


class LeakageRule(_Rule):
    """A model or a single feature that predicts too well knows the answer already."""

    model_auc: Share = 0.9
    feature_auc: Share = 0.9
    first_event_auc: Share = 0.97
    """Among rows whose count feature is 1: a feature that then gives the label away shows
    that the window holds the row itself."""


class ParentRule(_Rule):
    """How far a version that was made from another may be from it, on the test rows."""

    worst_difference: Share = 0.05
    """Of a probability, the greatest absolute difference."""
    auc_loss: Share = 0.002
    """The greatest loss of the AUC."""


class SupplyChainRule(_Rule):
    """What a version may be made of: licences and known vulnerabilities of its distributions."""

    attested: bool = True
    """It must attest how it was made, and bring a bill of materials."""
    worst_severity: Literal["none", "low", "moderate", "high", "critical"] = "moderate"
    """The worst known vulnerability that is let pass; one of unknown severity counts as high."""
    needs_vulnerabilities: bool = False
    """Fail where the settings name no file of vulnerabilities."""
    oldest_days: Annotated[int, Field(ge=0)] | None = None
    """Fail if the newest record of that file is older."""
    denied_licences: tuple[str, ...] = ()
    """Licences, or patterns with ``*`` (``AGPL-*``), that no distribution may have."""
    unknown_licences: bool = True
    """Whether distributions may be there that tell no licence."""
    excepted: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """Vulnerabilities (by any of their ids) or distributions that are let pass, each with why."""


class ModelPolicy(Definition):
    """What a model is for, and what each of its versions must keep to be served."""

    kind: ClassVar[str] = "model"

    name: Annotated[ModelName, Field(max_length=63)]
    """Of the model."""
    feature_service: Name
    label: str
    intended_use: str = ""
    limitations: str = ""
    floors: tuple[MetricRule, ...] = ()
    champion: ChampionRule | None = ChampionRule()
    slices: tuple[SliceRule, ...] = ()
    calibration: Share | None = 0.05
    """The greatest expected calibration error."""
    latency: LatencyRule | None = LatencyRule()
    largest_megabytes: Annotated[float, Field(gt=0)] | None = 100.0
    parent: ParentRule = ParentRule()
    supply_chain: SupplyChainRule = SupplyChainRule()
    leakage: LeakageRule | None = LeakageRule()
    guarded_aliases: tuple[AliasName, ...] = GUARDED_ALIASES
    """Aliases that move as a stage does: gates first, then another person's approval."""

    def document(self) -> dict[str, Any]:
        """As ``Definition.document``; a rule that is as it always was is left out, so that
        a policy keeps its fingerprint over versions of the platform."""
        told = super().document()
        if self.parent == ParentRule():
            del told["parent"]
        if self.supply_chain == SupplyChainRule():
            del told["supply_chain"]
        if self.guarded_aliases == GUARDED_ALIASES:
            del told["guarded_aliases"]
        return told

    def references(self) -> list[AssetRef]:
        """The feature service."""
        return [AssetRef("feature_service", self.feature_service)]


class FileEntry(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    size: int
    blob: str
    """The digest under which the encrypted bytes are kept."""


class FeatureStatistics(BaseModel):
    """How an input was spread over the training rows; the reference of drift monitors.

    For a number: bin ``i`` holds the values ``edges[i-1] < v <= edges[i]``, so that there
    is one count more than edges. For a category: one count for each word, then one for
    all other words. Missing values are counted apart.
    """

    name: str
    type: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    counts: tuple[int, ...]
    n_missing: int
    mean: float | None = None
    std: float | None = None


class Histogram(BaseModel):
    """Counts on frozen edges, with one count more than edges, as for a number above."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Statistics(BaseModel):
    """What the model saw and said when it was made."""

    n_rows: int
    features: tuple[FeatureStatistics, ...]
    scores: Histogram
    """Of the model's probabilities on the validation rows, 64 bins of equal width."""


class Signature(BaseModel):
    """What goes into the model and what comes out."""

    encoding: Encoding
    input_name: str = "inputs"
    output_name: str = "probability"
    """A float tensor of shape (rows, 1): the probability of label 1."""
    label: str


class Brought(BaseModel):
    """Where a model comes from that was not trained on this platform, as it was told."""

    file: str
    sha256: str
    by: str
    trained_until: datetime | None = None
    """The latest instant of which its training rows knew; rows until then do not judge it."""
    note: str = ""


class Parent(BaseModel):
    """The version that another one was made from without training, and how they differ."""

    version: int
    bundle: str
    made_by: str
    """``int8``."""
    n_rows: int
    """Rows that both scored."""
    worst_difference: float
    mean_difference: float
    """Of the probabilities, absolute."""
    bytes: int
    parent_bytes: int
    p50_us: float
    parent_p50_us: float
    """Of one row alone, on one thread of the machine that made it."""


class Manifest(BaseModel):
    """What a bundle says of itself; signed with the digests of all files.

    Of a model that was brought, ``run``, ``training_set_hash`` and ``definitions`` are
    empty, and ``training_set`` names the set that judges it, not one that it learned from.
    """

    format: Literal["falaj-bundle/1"] = "falaj-bundle/1"
    model: str
    run: str
    trainer: str
    feature_service: str
    feature_service_fingerprint: str
    definitions: dict[str, str]
    training_set: str
    training_set_hash: str
    snapshot: int
    signature: Signature
    metrics: dict[str, float]
    """Of the packaged model, ``validation_…``."""
    facts: dict[str, float | str] = {}
    importance: dict[str, float] = {}
    model_format: ModelFormat = ModelFormat.ONNX
    native_format: str = ""
    """The format of ``native.bin``, from which the model was converted; empty: the trainer's."""
    brought: Brought | None = None
    parent: Parent | None = None
    created_at: datetime


class Signer(BaseModel):
    """A key that bundles of this installation are signed with."""

    key: str
    algorithm: str
    public_key: str
    """PEM."""
    hint: str
    """SHA-256 of the PEM; by this `model.sig` names the key."""


class RevokedKind(StrEnum):
    """What was revoked."""

    BUNDLE = "bundle"
    SIGNER = "signer"


class Revocation(BaseModel):
    """Something that may not be used any more: a bundle, or all that a key signed."""

    kind: RevokedKind
    value: str
    """The bundle's digest, or the key's id."""
    at: datetime
    by: str
    reason: str
    stopped: tuple[str, ...] = ()
    """The endpoints that the call stopped; told by that call alone."""


class Outcome(StrEnum):
    """What a gate found."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class GateResult(BaseModel):
    """What one gate measured, and what it makes of it."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    gate: str
    outcome: Outcome
    message: str
    evidence: dict[str, Any]


class GateReport(BaseModel):
    """All gates of one version at one time."""

    id: str
    model: str
    version: int
    at: datetime
    by: str
    policy_fingerprint: str
    bundle: str
    champion: int | None
    passed: bool
    results: tuple[GateResult, ...]


class ModelVersion(BaseModel):
    """One version of a model."""

    model: str
    version: int
    stage: Stage
    run: str
    """Empty: no run of this platform trained it; it was brought, or an MLflow client logged it."""
    bundle: str
    """Empty: an MLflow client registered it, and it was not adopted yet."""
    training_set: str
    """The set that it learned from, or, if it was brought, that judges it (or empty)."""
    feature_service: str
    metrics: dict[str, float]
    created_at: datetime
    created_by: str
    gates_passed: bool | None = None
    """None if no gate has been run."""
    description: str = ""
    tags: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    updated_at: datetime | None = None
    source: str = ""
    """Where the files of an MLflow model lie; empty for all others."""
    source_run: str = ""
    """The run that an MLflow client named when it registered the version."""
    run_link: str = ""


class Model(BaseModel):
    """A model and where its versions stand."""

    name: str
    created_at: datetime
    latest: int
    """The greatest number that was given to a version, 0 before the first."""
    production: int | None = None
    staging: int | None = None
    description: str = ""
    tags: dict[str, str] = {}
    aliases: dict[str, int] = {}
    updated_at: datetime | None = None


class Move(BaseModel):
    """One version took a stage: who asked, who approved, when and why."""

    model: str
    version: int
    from_stage: Stage
    to_stage: Stage
    at: datetime
    asked_by: str
    approved_by: str
    reason: str
    change: str
    gate_report: str | None
    replaced: int | None = None
    """The version that left this stage for it."""


class AliasMove(BaseModel):
    """One alias took another version: who asked, who approved (if it is guarded), when and why."""

    model: str
    alias: str
    from_version: int | None
    to_version: int | None
    """None: the alias was removed."""
    at: datetime
    asked_by: str
    approved_by: str | None = None
    reason: str
    change: str | None = None
    gate_report: str | None = None


class Deletion(BaseModel):
    """One version was deleted: who did it, when and why."""

    model: str
    version: int
    at: datetime
    by: str
    reason: str


class History(BaseModel):
    """Where the versions of a model stood at an instant, and how it came to that."""

    model: str
    at: datetime
    production: int | None
    staging: tuple[int, ...]
    aliases: dict[str, int]
    moves: list[Move]
    """Of stages until then, the newest first."""
    alias_moves: list[AliasMove]
    deletions: list[Deletion]
