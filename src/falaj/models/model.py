"""The words of the registry: versions, stages, bundles, gates and what a model must keep."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import Definition
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict
from falaj.models.gating.rules import (
    METRICS,
    CalibrationRule,
    CardRule,
    ChampionRule,
    ExplainabilityRule,
    FairnessRule,
    InputsRule,
    LatencyRule,
    LeakageRule,
    MemoryRule,
    MetricRule,
    ParentRule,
    RobustnessRule,
    Share,
    SliceRule,
    SupplyChainRule,
    document_of,
)
from falaj.training.encoding import Encoding
from falaj.training.model import Name
from falaj.training.targets import ClassName, Target, Task, check_classes

GATES_JOB = "models.gates"
BRING_JOB = "models.bring"
ADOPT_JOB = "models.adopt"
QUANTIZE_JOB = "models.quantize"
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
_LATER = ("parent", "supply_chain", "guarded_aliases", "fairness", "robustness", "memory",
          "explainability", "card", "inputs", "task", "classes")  # fmt: skip
"""Fields of a policy that came later; a document leaves them out as ``gating.rules`` says."""


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


class ModelPolicy(Definition):
    """What a model is for, and what each of its versions must keep to be served."""

    kind: ClassVar[str] = "model"

    name: Annotated[ModelName, Field(max_length=63)]
    """Of the model."""
    feature_service: Name
    label: str
    task: Task = "binary"
    """What the label is: 0 and 1, a number (``regression``), or one of several ``classes``."""
    classes: tuple[ClassName, ...] = ()
    """Of the task ``classes``: every word of the label."""
    intended_use: str = ""
    limitations: str = ""
    floors: tuple[MetricRule, ...] = ()
    champion: ChampionRule | None = ChampionRule()
    """Of other tasks than labels 0 and 1 by the root of the mean square, or the log loss."""
    slices: tuple[SliceRule, ...] = ()
    calibration: Share | CalibrationRule | None = 0.05
    """The greatest expected calibration error; a number is the limit of a ``CalibrationRule``.
    It is of labels 0 and 1; of others there is none."""
    latency: LatencyRule | None = LatencyRule()
    largest_megabytes: Annotated[float, Field(gt=0)] | None = 100.0
    parent: ParentRule = ParentRule()
    supply_chain: SupplyChainRule = SupplyChainRule()
    leakage: LeakageRule | None = LeakageRule()
    guarded_aliases: tuple[AliasName, ...] = GUARDED_ALIASES
    """Aliases that move as a stage does: gates first, then another person's approval."""
    fairness: tuple[FairnessRule, ...] = ()
    robustness: RobustnessRule | None = None
    memory: MemoryRule | None = None
    explainability: ExplainabilityRule | None = None
    card: CardRule | None = None
    inputs: InputsRule | None = None

    @property
    def target(self) -> Target:
        """What its versions predict."""
        return Target(task=self.task, classes=self.classes)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, given: Any) -> Any:
        """The rules that stand where none is given, as they suit the task."""
        task = given.get("task") if isinstance(given, dict) else None
        if task not in ("regression", "classes"):
            return given
        champion = ChampionRule(metric=METRICS[task][0])
        return {"champion": champion, "calibration": None, **given}

    @model_validator(mode="after")
    def _rules_of_the_task(self) -> Self:
        check_classes(self.task, self.classes)
        known = METRICS[self.task]
        asked: list[str] = [one.metric for one in self.floors]
        asked += [one.metric for one in self.slices]
        if self.champion is not None:
            asked.append(self.champion.metric)
        for metric in asked:
            if metric not in known:
                raise ValueError(
                    f"{metric!r} is no metric of the task {self.task!r}; it has {', '.join(known)}"
                )
        if self.task != "binary":
            of_two = {
                "calibration": self.calibration is not None,
                "fairness": bool(self.fairness),
                "robustness": self.robustness is not None,
            }
            for name, given in of_two.items():
                if given:
                    raise ValueError(f"`{name}` is of labels 0 and 1, not of {self.task!r}")
        return self

    def document(self) -> dict[str, Any]:
        """As ``Definition.document``; a rule that is as it always was is left out, so that
        a policy keeps its fingerprint over versions of the platform."""
        told = super().document()
        fields = type(self).model_fields
        for name, value in tuple(told.items()):
            if name not in fields:
                continue
            own = getattr(self, name)
            if name in _LATER and own == fields[name].default:
                del told[name]
            else:
                told[name] = document_of(own, value)
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

    Where ``low`` and ``high`` are known, the first bin holds what lies below all training
    rows and the last one what lies above them; bundles made before have no such bins.
    """

    name: str
    type: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    counts: tuple[int, ...]
    n_missing: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    """Least and greatest finite value."""
    n_infinite: int = 0


class Histogram(BaseModel):
    """Counts on frozen edges, with one count more than edges, as for a number above."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Statistics(BaseModel):
    """What the model saw and said when it was made."""

    n_rows: int
    features: tuple[FeatureStatistics, ...]
    scores: Histogram
    """Of the model's probabilities on the validation rows. Edges are their quantiles and 63 of
    equal distance; bundles made before have the latter alone."""
    positives: tuple[int, ...] | None = None
    """How many of the rows in each bin of the scores had the label 1. None in a bundle that was
    made before this was kept, or without labels."""
    score_totals: tuple[float, ...] | None = None
    """The sum of the scores in each bin; None as for ``positives``."""


class Signature(BaseModel):
    """What goes into the model and what comes out."""

    encoding: Encoding
    input_name: str = "inputs"
    output_name: str = "probability"
    """A float tensor of shape (rows, 1): the probability of label 1, or as ``ports`` says."""
    label: str
    target: Target = Target()
    """What the label is, and so what the model gives."""


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
