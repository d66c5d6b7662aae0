"""The words of serving: endpoints, releases, what a request carries and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from falaj.catalog.definitions import Definition
from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.serving.splits import CHAMPION, Assignment, Split

EndpointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,48}$")]
"""Lower case, starts with a letter; its prediction table is named after it."""


class FieldType(StrEnum):
    """The type of a request field, as a client writes it in JSON."""

    FLOAT = "float"
    INT = "int"
    STRING = "string"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"  # RFC 3339 with a zone


class Durability(StrEnum):
    """What an answered request may lose when its worker is killed."""

    BATCH = "batch"  # at most the unflushed buffer (a second, or a thousand rows)
    REQUEST = "request"  # nothing: the answer waits for a durable local append


class MissingPolicy(StrEnum):
    """What to do when a feature has no fresh value and its view declares no default."""

    MODEL = "model"  # give the model its own missing value (NaN)
    REFUSE = "refuse"  # answer that the features are missing


class AnomalyPolicy(StrEnum):
    """Who is told how unlike the training rows a row is, by the isolation forest of the model."""

    ASKED = "asked"  # who asks for it, with explain=anomaly
    TAG = "tag"  # everybody, with every prediction; and the prediction log


class FeatureStatus(IntEnum):
    """What became of one feature in one read."""

    PRESENT = 0
    NULL = 1  # there is a row, and its value is null
    EXPIRED = 2  # the latest row is older than the time to live
    MISSING = 3  # nothing is known of this entity


class ReleaseState(StrEnum):
    """Where a release stands."""

    DEPLOYED = "deployed"  # written and loadable; serves nothing
    ACTIVE = "active"
    REPLACED = "replaced"  # served once; may be rolled back to
    RETIRED = "retired"  # for good: serves never again


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Frozen):
    """Bounds of one endpoint, per worker."""

    body_bytes: int = Field(default=1_048_576, ge=64, le=1 << 30)
    rows: int = Field(default=1_000, ge=1, le=1_000_000)
    """Rows of one request."""
    deadline_seconds: float = Field(default=2.0, gt=0, le=600)
    """From the first byte that the worker sees to the answer."""
    concurrency: int = Field(default=256, ge=1, le=100_000)
    """Requests that may be in a worker at once; the next one is told to come back."""
    queue_seconds: float = Field(default=0.2, gt=0, le=600)
    """What waits in a worker may take so long to score; the next one is told to come back."""


class RequestField(_Frozen):
    """One named value of an input row."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    type: FieldType
    required: bool = True
    nullable: bool = False


class Combination(StrEnum):
    """How the models of one endpoint make one score."""

    MEAN = "mean"  # the weighted mean of all
    CHAIN = "chain"  # one after the other; the last one's score is the answer


class Member(_Frozen):
    """One model of a composition; the version that is in production is taken."""

    model: str
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Its part in a mean."""
    gives: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62})?$")
    """The input of a later member that its score is, in a chain."""


class Composition(_Frozen):
    """Several models behind one endpoint, in order."""

    combine: Combination
    members: tuple[Member, ...] = Field(min_length=2, max_length=16)

    @model_validator(mode="after")
    def _whole(self) -> Composition:
        names = [member.model for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError("a model is named twice among the members")
        chained = self.combine is Combination.CHAIN
        gives = [member.gives for member in self.members]
        if chained and (gives[-1] or not all(gives[:-1])):
            raise ValueError("in a chain each member but the last says what input it gives")
        if chained and len(set(gives)) != len(gives):
            raise ValueError("two members of a chain give the same input")
        if not chained and any(gives):
            raise ValueError("members of a mean give no inputs to others")
        return self


class Endpoint(Definition):
    """Where predictions of a model are asked, and what limits them.

    Which version of the model serves is not declared: that is a release, deployed from
    the version that was approved for production.
    """

    kind: ClassVar[str] = "endpoint"
    relation: ClassVar[Relation] = Relation.DEFINES

    name: EndpointName
    model: str
    """With a composition: the member under whose name and version the predictions stand."""
    composition: Composition | None = None
    feature_service: str | None = None
    """None: the one that the model was trained on, if any."""
    fields: tuple[RequestField, ...] = ()
    """Request fields beyond those that the feature service asks for."""
    unit: str | None = None
    limits: Limits = Limits()
    durability: Durability = Durability.BATCH
    missing: MissingPolicy = MissingPolicy.MODEL
    anomalies: AnomalyPolicy = Field(
        default=AnomalyPolicy.ASKED, exclude_if=lambda given: given is AnomalyPolicy.ASKED
    )
    """``tag``: its models were trained with an isolation forest, which tags every prediction."""
    subject: str | None = None
    """The request field that names the person whom a prediction is about; None: the one that
    the views of its features name, if any. The prediction log is kept under that person's key."""
    subject_kind: str = Field("person", pattern=r"^[a-z][a-z0-9_]{0,62}$")

    @model_validator(mode="after")
    def _own_member(self) -> Endpoint:
        if self.composition is not None and self.model not in (
            member.model for member in self.composition.members
        ):
            raise ValueError(f"the model {self.model!r} is no member of the composition")
        return self

    def document(self) -> dict[str, Any]:
        """As ``Definition.document``; without a composition, or a subject, as it was before
        there were any."""
        told = super().document()
        if self.composition is None:
            del told["composition"]
        if self.subject is None:
            del told["subject"], told["subject_kind"]
        return told

    def references(self) -> list[AssetRef]:
        """The model or models, and the feature service if one is named."""
        found = [AssetRef("model", self.model)]
        if self.composition is not None:
            found = [AssetRef("model", member.model) for member in self.composition.members]
        if self.feature_service:
            found.append(AssetRef("feature_service", self.feature_service))
        return found


class PinnedMember(_Frozen):
    """One model version of a composition, as a release pins it."""

    model: str
    version: int
    bundle: str
    weight: float = 1.0
    gives: str = ""

    @property
    def label(self) -> str:
        """``model/version``."""
        return f"{self.model}/{self.version}"


class Variant(_Frozen):
    """One model version (or a composition of some) inside a release, and its share of the
    units. A composition stands under the name of one of its members."""

    name: str = "champion"
    model: str
    version: int
    bundle: str
    """The digest of the model's bundle (``sha256:…``)."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Beside an assignment, which says who meets challengers, the champion has 1 and all
    others have 0."""
    combine: Combination | None = None
    members: tuple[PinnedMember, ...] = ()
    """All members of a composition, in order; empty for one model alone."""
    shadow: bool = Field(default=False, exclude_if=lambda shadow: not shadow)
    """It runs behind the answer, which never tells what it says."""

    @model_validator(mode="after")
    def _composed(self) -> Variant:
        if bool(self.members) != (self.combine is not None):
            raise ValueError("a composition needs members and how they are combined")
        if self.members and self.bundle not in (member.bundle for member in self.members):
            raise ValueError("the variant's own model is no member of its composition")
        return self

    @property
    def pinned(self) -> tuple[PinnedMember, ...]:
        """Every model version that answers: the members, or the one alone."""
        alone = PinnedMember(model=self.model, version=self.version, bundle=self.bundle)
        return self.members or (alone,)

    @property
    def label(self) -> str:
        """``model/version``."""
        return f"{self.model}/{self.version}"


class Approved(BaseModel):
    """A model version that may be served."""

    model: str
    version: int
    bundle: str
    feature_service: str | None = None
    """The one that it was trained on."""
    outputs: tuple[str, ...] = ("score",)
    """The names of what it gives for a row."""
    change: str | None = None
    """The change that approved it."""

    def variant(self) -> Variant:
        """The version as the only variant of a release."""
        return Variant(model=self.model, version=self.version, bundle=self.bundle)


class Release(_Frozen):
    """An immutable document: all that a worker needs to serve an endpoint.

    A model's input is the feature of that name, or else the request field of that name.
    """

    id: str
    endpoint: EndpointName
    variants: tuple[Variant, ...] = Field(min_length=1)
    feature_service: str | None = None
    features: dict[str, Any] | None = None
    """The feature service's document as it stood when the release was made."""
    fields: tuple[RequestField, ...] = ()
    outputs: tuple[str, ...] = ("score",)
    unit: str | None = None
    """The request field by which variants are assigned: the same unit, the same variant."""
    limits: Limits = Limits()
    durability: Durability = Durability.BATCH
    missing: MissingPolicy = MissingPolicy.MODEL
    anomalies: AnomalyPolicy = Field(
        default=AnomalyPolicy.ASKED, exclude_if=lambda given: given is AnomalyPolicy.ASKED
    )
    subject: str | None = None
    """The request field that names the person whom a prediction is about."""
    subject_kind: str = "person"
    attributes: dict[str, str] = {}
    """Of the endpoint, as the policy sees them: owner, classification, region."""
    assignment: Assignment | None = Field(default=None, exclude_if=lambda given: given is None)
    """Of a rollout: who may meet the challengers, which stand behind the champion."""
    change: str | None = None
    """The approved change that put the model into production."""
    created_at: datetime
    created_by: str

    @model_validator(mode="after")
    def _whole(self) -> Release:
        if abs(sum(variant.share for variant in self.variants) - 1) > 1e-9:
            raise ValueError("the shares of the variants must add up to 1")
        names = [item.name for item in self.fields]
        if len(set(names)) != len(names):
            raise ValueError("a request field is named twice")
        if self.unit is not None and self.unit not in names:
            raise ValueError(f"the unit {self.unit!r} is not a request field")
        needs_unit = len(self.variants) > 1
        if self.assignment is not None:
            needs_unit = self._check_assignment(self.assignment)
        elif any(variant.shadow for variant in self.variants):
            raise ValueError("a shadow stands beside a champion, under an assignment")
        if needs_unit and self.unit is None:
            raise ValueError("a release with several variants needs a unit to assign them by")
        return self

    def _check_assignment(self, given: Assignment) -> bool:
        """True if units are divided, so that a request must tell its own."""
        champion, *challengers = self.variants
        if champion.name != CHAMPION or champion.shadow or champion.share < 1:
            raise ValueError("the champion comes first, and its share is 1")
        if [one.name for one in challengers] != list(given.final):
            raise ValueError("the assignment is not about the challengers of the release")
        shadows = {one.shadow for one in challengers}
        if len(shadows) > 1:
            raise ValueError("either all challengers are shadows, or none")
        if given.segment is not None and given.segment not in [item.name for item in self.fields]:
            raise ValueError(f"the segment {given.segment!r} is not a request field")
        if shadows == {False} and given.segment is None and sum(given.final.values()) > 1 + 1e-9:
            raise ValueError("the shares of the challengers sum to more than 1")
        by_unit = shadows == {False} and given.segment is None
        return by_unit or given.layer is not None or given.holdout > 0

    @property
    def base(self) -> str | None:
        """Of a rollout: the release of its champion alone."""
        return None if self.assignment is None else self.assignment.base

    def shares(self, split: Split | None) -> dict[str, float]:
        """Of the units that take part, what share meets each variant under a split, by name.

        One that runs in the shadow has that of the units that it runs beside; they meet the
        champion.
        """
        if self.assignment is None:
            return {one.name: one.share for one in self.variants}
        now = {} if split is None or split.release != self.id else split.shares
        found = {one.name: now.get(one.name, 0.0) for one in self.variants[1:]}
        met = sum(found[one.name] for one in self.variants[1:] if not one.shadow)
        return {self.variants[0].name: 1 - met, **found}

    @property
    def model(self) -> str:
        """``model/version`` of the first variant."""
        return self.variants[0].label


class ReleaseStatus(BaseModel):
    """A release and where it stands."""

    release: Release
    state: ReleaseState
    activated_at: datetime | None = None
    activated_by: str | None = None


class Activation(BaseModel):
    """One switch of an endpoint, for "what was in production on that day"."""

    endpoint: str
    release: str | None
    """None: it was switched off."""
    previous: str | None
    at: datetime
    by: str


class EndpointSummary(BaseModel):
    """An endpoint in a list."""

    name: str
    model: str
    active: str | None
    """The id of the active release."""
    version: int | None
    """The model version that it serves."""


class WorkerStatus(BaseModel):
    """One inference worker, as it last reported."""

    id: str
    pid: int
    seen_at: datetime
    generation: int
    """The generation of the routing table that it serves."""
    prepared: dict[str, str] = {}
    """Release id to ``ready``, or to the reason why it can not be loaded."""


class VariantTraffic(BaseModel):
    """What one variant of an endpoint answered, and its latency."""

    variant: str
    shadow: bool = False
    """It ran behind the answer; then its requests are those that it ran on."""
    requests: int = 0
    """Answered requests whose first row it scored."""
    predictions: int = 0
    failed: int = 0
    """Requests on which its own model failed. Where it is a challenger, the champion answered
    them, and they count among the champion's requests as well."""
    dropped: int = 0
    """Requests that it should have run on as a shadow, but that came too fast."""
    unlogged: int = 0
    tagged: int = 0
    """Predictions that its isolation forest tagged (``anomalies = "tag"``)."""
    anomalous: int = 0
    """Of these, the ones above the limit of the forest."""
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None


class Traffic(BaseModel):
    """What an endpoint's workers counted, those that have ended too, and its latency.

    A quantile is at most 6.25 % above the true one, and never below it.
    """

    requests: int = 0
    predictions: int = 0
    refused: int = 0
    """Requests answered with a 4xx status."""
    failed: int = 0
    """Requests answered with a 5xx status."""
    shed: int = 0
    """Of these, requests told to come back later (429, 503)."""
    late: int = 0
    """Of these, requests whose deadline had passed (504)."""
    unlogged: int = 0
    """Predictions that the full log buffer could not take (``durability = "batch"``)."""
    tagged: int = 0
    """Predictions that an isolation forest tagged (``anomalies = "tag"``)."""
    anomalous: int = 0
    """Of these, the ones above the limit of their forest."""
    in_flight: int = 0
    """Requests in work when the workers last looked (each second)."""
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    variants: list[VariantTraffic] = []


class SeriesCounts(BaseModel):
    """What was counted of one variant of an endpoint since the beginning, on this machine.

    The difference of two of them is what happened between.
    """

    endpoint: str
    variant: str
    """Empty: requests that reached no variant, and what is of the endpoint as a whole."""
    shadow: bool = False
    """It ran behind the answer: no part of what the endpoint answered. Its latency is that of
    its own runs."""
    release: str | None = None
    """The active release of the endpoint."""
    workers: int = 0
    """Living workers that have served it."""
    in_flight: int = 0
    requests: int = 0
    predictions: int = 0
    refused: int = 0
    failed: int = 0
    """Without a variant: answers 5xx. Of a variant: requests on which its own model failed; of
    a challenger, the champion answered them, so that they are among its requests as well."""
    shed: int = 0
    late: int = 0
    unlogged: int = 0
    dropped: int = 0
    """Requests that a shadow should have run on, but that came too fast."""
    runs: int = 0
    """Runs of the model."""
    queue_seconds: float = 0.0
    """That answered requests waited for their turn, in all."""
    model_seconds: float = 0.0
    """That the model ran, in all."""
    latency: list[tuple[int, int]] = []
    """(bucket, answered requests), where there are any; see ``serving.counted``."""


class Measurement(BaseModel):
    """What the inference workers of this machine have counted up to an instant."""

    at: datetime
    series: list[SeriesCounts]


class EndpointStatus(BaseModel):
    """An endpoint now: its active release, its workers and its traffic."""

    endpoint: str
    active: Release | None
    shares: dict[str, float] = {}
    """Of the active release: what share of units meets each variant now, as ``Release.shares``."""
    generation: int
    workers: list[WorkerStatus]
    traffic: Traffic


class Answer(BaseModel):
    """The answer to one prediction request."""

    request_id: str
    release: str
    model: str
    predictions: list[dict[str, Any]]


class TraceNode(BaseModel):
    """One step on the way from a prediction back to its source rows."""

    kind: str
    key: str
    relation: str = ""
    """How this step led to the one above it."""
    facts: dict[str, Any] = {}
    causes: list[TraceNode] = []


@dataclass(frozen=True, slots=True)
class ServableModel:
    """A verified bundle, opened: what a runtime needs to run it."""

    format: str
    """``onnx``, ``lightgbm``, …"""
    model: bytes = field(repr=False)
    inputs: tuple[str, ...]
    """The names of the model's columns, in its order."""
    outputs: tuple[str, ...] = ("score",)
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For an input that is a word: the known words; the model reads a word's place."""
    sample: tuple[tuple[float, ...], ...] = ()
    """A few input rows to warm the model with."""
    native_format: str = ""
    native: bytes = field(default=b"", repr=False)
    """The model from which this one was converted, if its bundle has it; it can explain."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    isolation: bytes = field(default=b"", repr=False)
    """The forest of the bundle that tells anomalies; empty if it has none."""
