"""The words of features: entities, views, aggregates, on-demand functions, services.

They are declarations: pure data, with a content hash, that ``falaj apply`` hands over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from falaj.catalog.definitions import Definition
from falaj.features import ondemand
from falaj.features.types import DType, Element, FeatureType, ListType, Type
from falaj.kernel.call import AssetRef

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def microseconds(duration: timedelta) -> int:
    """A duration in whole microseconds, exact."""
    return (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{str(value)[:80]!r} is not a name: lower-case letters, digits and underscores, "
            "beginning with a letter, at most 63"
        )
    return value


Name = Annotated[str, BeforeValidator(_name)]
"""A name that is safe as a column, a key and a part of a reference."""
Column = Annotated[str, Field(min_length=1, max_length=200)]
"""The name of a column of a source table, any text."""


class Function(StrEnum):
    """What an aggregate computes over the events of its window."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    STD = "std"
    LAST = "last"
    DISTINCT = "distinct"
    """How many different values there are."""
    TOPK = "topk"
    """The ``k`` most frequent values, the most frequent first; of equals the smaller first."""
    QUANTILE = "quantile"
    """The least value that at least the share ``q`` of the values do not exceed."""


_NUMBERS = (DType.BOOL, DType.INT64, DType.FLOAT64)
_ORDERED = (DType.INT64, DType.FLOAT64, DType.TIMESTAMP)
_COUNTED = (DType.BOOL, DType.INT64, DType.FLOAT64, DType.STRING, DType.TIMESTAMP)
_AGGREGATED: dict[Function, tuple[DType, ...]] = {
    Function.COUNT: tuple(DType),
    Function.SUM: _NUMBERS,
    Function.MEAN: _NUMBERS,
    Function.STD: _NUMBERS,
    Function.MIN: _ORDERED,
    Function.MAX: _ORDERED,
    Function.LAST: (*_NUMBERS, DType.TIMESTAMP),
    Function.DISTINCT: _COUNTED,
    Function.TOPK: _COUNTED,
    Function.QUANTILE: (DType.INT64, DType.FLOAT64),
}
BY_VALUE = (Function.DISTINCT, Function.TOPK, Function.QUANTILE)
"""Functions that need how often each value occurs; their tiles grow with the values."""


class Knowledge(StrEnum):
    """What counts as known at an instant."""

    RECORDED = "recorded"
    """Rows that had happened and had been recorded by then."""
    EVENT = "event"
    """Rows that had happened by then, whenever they were recorded."""


class Status(StrEnum):
    """What became of one feature in one read."""

    PRESENT = "present"
    NULL = "null"
    """There is a row, and its value is null (or a window holds no value)."""
    EXPIRED = "expired"
    """The latest row is older than the time to live."""
    MISSING = "missing"
    """Nothing is known of this entity at that time, or the key is null."""


class Word(BaseModel):
    """A part of a definition: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Feature(Word):
    """One column that a view offers, ``Feature("temp", "float64")``."""

    name: Name
    dtype: FeatureType
    column: Column = ""
    """The source column; by default that of the same name."""
    description: str = ""

    def __init__(
        self, name: str | None = None, dtype: str | Type | None = None, **values: Any
    ) -> None:
        given = {"name": name, "dtype": dtype}
        super().__init__(**{k: v for k, v in given.items() if v is not None}, **values)

    @model_validator(mode="before")
    @classmethod
    def _own_column(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("column"):
            values = {**values, "column": values.get("name")}
        return values


class Aggregate(Word):
    """One windowed aggregate, ``Aggregate("delay_1h", "mean", "delay", window=hours(1))``.

    ``dtype`` is the type of the column (by default float64; integers widen to it), which
    min, max, last and topk keep. ``hop`` is the length of a tile: by default a sixtieth of
    the window, at least 1 s. ``k`` is for ``topk``, ``q`` for ``quantile``.
    """

    name: Name
    function: Function
    column: Column | None = None
    dtype: DType = DType.FLOAT64
    window: timedelta
    hop: timedelta | None = None
    k: int | None = Field(None, ge=1, le=1000)
    q: float | None = Field(None, gt=0, le=1)
    description: str = ""

    def __init__(
        self,
        name: str | None = None,
        function: str | None = None,
        column: str | None = None,
        **values: Any,
    ) -> None:
        given = {"name": name, "function": function, "column": column}
        super().__init__(**{k: v for k, v in given.items() if v is not None}, **values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.window < timedelta(microseconds=1):
            raise ValueError("a window is longer than nothing")
        if self.hop is not None and not timedelta(0) < self.hop <= self.window:
            raise ValueError("a hop is longer than nothing and no longer than its window")
        if self.column is None and self.function is not Function.COUNT:
            raise ValueError(f"the function {self.function} needs a column")
        if self.dtype not in _AGGREGATED[self.function]:
            raise ValueError(f"the function {self.function} does not take {self.dtype}")
        for given, name, function in (
            (self.k, "k", Function.TOPK),
            (self.q, "q", Function.QUANTILE),
        ):
            if (given is not None) != (self.function is function):
                raise ValueError(f"`{name}` is given for {function}, and for it alone")
        return self

    @property
    def output(self) -> Type:
        """The type of the result."""
        if self.function in (Function.COUNT, Function.DISTINCT):
            return DType.INT64
        if self.function is Function.TOPK:
            return ListType(Element(self.dtype.value))
        kept = self.function in (Function.MIN, Function.MAX, Function.LAST)
        return self.dtype if kept else DType.FLOAT64

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return microseconds(self.window)

    @property
    def hop_us(self) -> int:
        """The length of a tile in microseconds."""
        if self.hop is not None:
            return microseconds(self.hop)
        return max(self.window_us // 60, 1_000_000)


class Operator(StrEnum):
    """How a row filter compares."""

    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IS_NULL = "is_null"
    NOT_NULL = "not_null"
    IN = "in"


class Filter(Word):
    """Keeps the source rows whose column compares so; a null compares as false."""

    column: Column
    op: Operator
    value: bool | int | float | str | list[bool | int | float | str] | None = None

    def __init__(self, column: str | None = None, op: str | None = None, value: Any = None) -> None:
        given = {"column": column, "op": op, "value": value}
        super().__init__(**{k: v for k, v in given.items() if v is not None})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unary = self.op in (Operator.IS_NULL, Operator.NOT_NULL)
        if unary != (self.value is None):
            raise ValueError(f"{self.op} takes {'no' if unary else 'a'} value")
        if isinstance(self.value, list) != (self.op is Operator.IN):
            raise ValueError("`in`, and nothing else, compares with a list")
        return self


class Entity(Definition):
    """What features describe, ``Entity(name="route", keys={"origin": "string", ...})``."""

    kind: ClassVar[str] = "entity"
    name: Name
    keys: dict[Name, DType] = Field(min_length=1, max_length=8)

    @field_validator("keys")
    @classmethod
    def _keys(cls, keys: dict[str, DType]) -> dict[str, DType]:
        for name, dtype in keys.items():
            if dtype not in (DType.INT64, DType.STRING):
                raise ValueError(f"the key {name!r} must be int64 or string, not {dtype}")
        return keys


def _named(value: Any) -> Any:
    return value.name if isinstance(value, Definition) else value


class FeatureView(Definition):
    """Features of one entity from one source table: latest values, or window aggregates.

    ``event_time`` is the column that says when a row became true, ``recorded_at`` the one
    that says when it was recorded (absent: known when it happened). ``entity_columns``
    maps the entity's keys to source columns where they differ. ``head`` is how far before
    its newest event an online read of a window view stays exact.

    ``source`` names a table of the lake, which a ``Stream`` of that name may feed, or a
    ``ForeignTable``. ``purposes`` are those for which its features may be read; none named
    means any. An event that reaches a stream more than ``allowed_lateness`` behind the
    stream's newest event time is set aside as a dead letter; None takes every event.

    ``subject`` is the key of the entity that names the person whom the features are about,
    and ``subject_kind`` what it names; tables and views that name the same kind share keys.
    The online rows of such a view stand under that person's key, and are gone with it.
    """

    kind: ClassVar[str] = "feature_view"
    name: Name
    entity: Annotated[Name, BeforeValidator(_named)]
    source: Name
    event_time: Column
    recorded_at: Column | None = None
    entity_columns: dict[Name, Column] = Field(default_factory=dict)
    where: tuple[Filter, ...] = ()
    ttl: timedelta | None = None
    features: tuple[Feature, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    head: timedelta = timedelta(0)
    purposes: tuple[Name, ...] = ()
    allowed_lateness: timedelta | None = None
    subject: Name | None = None
    """The key of the entity that names the person whom the features are about."""
    subject_kind: Name = "person"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.features) == bool(self.aggregates):
            raise ValueError("a view has either `features` (latest values) or `aggregates`")
        names = self.output_names
        if len(set(names)) != len(names):
            raise ValueError("two features of the view have the same name")
        if self.ttl is not None and self.ttl <= timedelta(0):
            raise ValueError("a time to live is longer than nothing")
        if self.ttl is not None and self.aggregates:
            raise ValueError("a window says itself how long events count; leave out `ttl`")
        if self.head < timedelta(0):
            raise ValueError("`head` is not negative")
        if self.allowed_lateness is not None and self.allowed_lateness < timedelta(0):
            raise ValueError("`allowed_lateness` is not negative")
        return self

    @property
    def output_names(self) -> list[str]:
        """The names of what the view offers, in order."""
        return [item.name for item in self.features] + [item.name for item in self.aggregates]

    def references(self) -> list[AssetRef]:
        """The source table and the entity that it is about."""
        return [AssetRef("table", self.source), AssetRef("entity", self.entity)]


class OnDemandFeatures(Definition):
    """Features computed when they are asked for, by a pure function over numpy arrays.

    ``inputs`` names, for each argument of the function, a request field
    (``request:hour``) or a feature (``weather:temp``, or ``weather@2:temp`` for a version of
    the view; without one it is the version that the service takes). Numbers and bools arrive as
    float64 with NaN for null, timestamps as int64 microseconds with the least int64 for
    null, strings as object arrays with None. The function returns an array (one output),
    or a dict of arrays by output name. NaN in a result means null.
    """

    kind: ClassVar[str] = "on_demand"
    name: Name
    inputs: dict[Name, str] = Field(min_length=1)
    outputs: tuple[Feature, ...] = Field(min_length=1)
    source: str = Field(max_length=20_000)

    @classmethod
    def of(
        cls, function: Callable[..., Any], *, inputs: Mapping[str, str], outputs: Any, **values: Any
    ) -> Self:
        """From a plain function; its text is kept in the definition, its name by default."""
        values.setdefault("name", function.__name__)
        source = ondemand.source_of(function)
        return cls(inputs=dict(inputs), outputs=tuple(outputs), source=source, **values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        asked = ondemand.parameters(self.source)
        if set(asked) != set(self.inputs):
            raise ValueError(
                f"the function takes {', '.join(asked)}, `inputs` gives {', '.join(self.inputs)}"
            )
        versions: dict[str, int | None] = {}
        for reference in self.inputs.values():
            item, version = split_version(reference)
            view, _ = split_reference(item)
            if versions.setdefault(view, version) != version:
                raise ValueError(f"the inputs name two versions of {view!r}; one can be taken")
        for output in self.outputs:
            if not isinstance(output.dtype, DType) or output.dtype is DType.BYTES:
                raise ValueError(f"the output {output.name!r} is {output.dtype}; it is one value")
        return self

    @property
    def output_types(self) -> dict[str, DType]:
        """The type of each output by name."""
        return {one.name: one.dtype for one in self.outputs if isinstance(one.dtype, DType)}

    @property
    def taken(self) -> list[tuple[str, int | None, str]]:
        """(view, version or None where none is named, feature), without request fields."""
        found = []
        for reference in self.inputs.values():
            item, version = split_version(reference)
            view, feature = split_reference(item)
            if view != REQUEST:
                found.append((view, version, feature))
        return found

    def versions(self) -> dict[str, int | None]:
        """The views that it takes from, each with the version that it names."""
        return {view: version for view, version, _ in self.taken}

    def references(self) -> list[AssetRef]:
        """The views whose features it uses."""
        return [AssetRef("feature_view", name) for name in self.versions()]


REQUEST = "request"
_VERSION = re.compile(r"@([1-9][0-9]{0,5})\Z")


def split_reference(reference: str) -> tuple[str, str]:
    """``view:feature`` as its two names; raises ValueError (a pydantic refusal)."""
    view, colon, feature = reference.partition(":")
    if not colon:
        raise ValueError(f"{reference[:80]!r} is not of the form view:feature")
    return _name(view), _name(feature)


def split_version(item: str) -> tuple[str, int | None]:
    """``view@2:feature`` as ``view:feature`` and 2; without a version, None."""
    view, colon, feature = item.partition(":")
    found = _VERSION.search(view)
    if found is None:
        return item, None
    return view[: found.start()] + colon + feature, int(found[1])


def _service_item(value: Any) -> Any:
    if isinstance(value, Definition):
        return value.name
    if isinstance(value, str):
        item, _ = split_version(value)
        if ":" in item:
            split_reference(item)
        else:
            _name(item)
    return value


class FeatureService(Definition):
    """The features that one model takes, in the order in which it takes them.

    ``features`` are ``view:feature``, or a whole view by its name; of the names in
    ``on_demand``, on-demand features are meant. ``view@2:feature`` and ``view@2`` mean that
    version of the definition; without one the current version is meant. (Given the objects
    themselves, the names are taken from them.) ``request_fields`` come with each request
    and lead the vector.
    ``keys`` maps an entity's keys to other columns of the spine, per view
    (``{"weather": {"origin": "dest"}}``). ``missing`` gives a default for a feature
    (``view:feature``) or a request field that is null, expired or missing; without one it
    stays null.
    """

    kind: ClassVar[str] = "feature_service"
    features: tuple[Annotated[str, BeforeValidator(_service_item)], ...] = ()
    on_demand: tuple[Name, ...] = ()
    request_fields: dict[Name, DType] = Field(default_factory=dict)
    keys: dict[Name, dict[Name, Column]] = Field(default_factory=dict)
    missing: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _objects(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        names = [item.name for item in values.get("features", ())
                 if isinstance(item, OnDemandFeatures)]  # fmt: skip
        given = [*values.get("on_demand", ()), *names]
        return {**values, "on_demand": tuple(dict.fromkeys(given))}

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.features and not self.request_fields:
            raise ValueError("a service has at least one feature or request field")
        versions: dict[str, int | None] = {}
        for name, version, _ in self.taken:
            if versions.setdefault(name, version) != version:
                raise ValueError(f"it names two versions of {name!r}; one can be taken")
        unused = set(self.on_demand) - set(versions)
        if unused:
            raise ValueError(f"`on_demand` names {sorted(unused)}, of which no feature is taken")
        return self

    @property
    def taken(self) -> list[tuple[str, int | None, str]]:
        """(name, version or None for the current one, feature or "" for all), in order."""
        found = []
        for item in self.features:
            reference, version = split_version(item)
            name, _, feature = reference.partition(":")
            found.append((name, version, feature))
        return found

    def versions(self) -> dict[str, int | None]:
        """The views and on-demand features that it takes from, each with its version."""
        return {name: version for name, version, _ in self.taken}

    def references(self) -> list[AssetRef]:
        """The views and on-demand features that it takes from."""
        names = dict.fromkeys(name for name, _, _ in self.taken)
        kinds = {True: OnDemandFeatures.kind, False: FeatureView.kind}
        return [AssetRef(kinds[name in self.on_demand], name) for name in names]
