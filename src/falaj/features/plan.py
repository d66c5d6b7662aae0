"""A feature service, compiled with everything that it refers to.

A plan is made of documents alone, so that a release can carry them and any worker can
compile them without the metadata database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from falaj.catalog.definitions import Definition
from falaj.features import ondemand
from falaj.features.columns import Array, Ints, Values, arrow_type, column_of, typed
from falaj.features.model import (
    REQUEST,
    Entity,
    FeatureService,
    FeatureView,
    OnDemandFeatures,
    split_reference,
    split_version,
)
from falaj.features.types import DType, Type
from falaj.features.views import ViewPlan
from falaj.kernel.errors import InvalidInput

D = TypeVar("D", bound=Definition)
_AROUND = ("kind", "version")
"""What a document says besides the fields of its definition."""
_NO_TIME = np.iinfo(np.int64).min


class DefinitionAccess(Protocol):
    """Finds applied definitions."""

    def get(self, kind: str, name: str) -> Definition:
        """The current definition; raises NotFound."""
        ...

    def version(self, kind: str, name: str, version: int) -> Definition:
        """One version of a definition; raises NotFound."""
        ...

    def all(self, kind: str) -> Sequence[Definition]:
        """Every current definition of a kind."""
        ...


def column_name(reference: str) -> str:
    """The column of a feature: ``view:feature`` is ``view__feature``."""
    return reference.replace(":", "__")


@dataclass(frozen=True)
class ViewUse:
    """A view as a service uses it: where its keys come from, which features are needed."""

    plan: ViewPlan
    key_columns: tuple[str, ...]
    features: tuple[str, ...]
    version: int | None = None
    """The version that the service names; None if it takes the current one."""


@dataclass(frozen=True)
class OnDemandUse:
    """On-demand features as a service uses them."""

    definition: OnDemandFeatures
    function: Callable[..., Any]
    inputs: tuple[tuple[str, str, DType], ...]
    """(argument, column, type)."""
    version: int | None = None
    """The version that the service names; None if it takes the current one."""

    def computed(self, columns: Mapping[str, tuple[Any, Array]], n: int) -> dict[str, Values]:
        """The outputs by column, from (values, validity) of each input column."""
        given = {
            argument: _for_function(*columns[column], dtype)
            for argument, column, dtype in self.inputs
        }
        definition = self.definition
        try:
            with np.errstate(all="ignore"):
                result = self.function(**given)
        except Exception as error:
            raise InvalidInput(
                f"The on-demand function {definition.name!r} failed: "
                f"{type(error).__name__}: {error}.",
                hint="Try it on arrays with NaN and of length 1.",
            ) from error
        if not isinstance(result, Mapping):
            result = {definition.outputs[0].name: result}
        if set(result) != {output.name for output in definition.outputs}:
            raise InvalidInput(
                f"The on-demand function {definition.name!r} gave {sorted(result)}, not what "
                "its definition names.",
                hint="Return a dict with every declared output.",
            )
        return {
            f"{definition.name}__{output.name}": _from_function(
                result[output.name],
                definition.output_types[output.name],
                n,
                f"{definition.name}:{output.name}",
            )
            for output in definition.outputs
        }


def _for_function(values: Any, valid: Array, dtype: DType) -> Array:
    if dtype is DType.STRING:
        texts = np.asarray(values, np.object_).copy()
        texts[~valid] = None
        return texts
    if dtype is DType.TIMESTAMP:
        return np.where(valid, values, _NO_TIME)
    return np.where(valid, np.asarray(values, np.float64), np.nan)


def _from_function(result: Any, dtype: DType, n: int, name: str) -> Values:
    array = np.asarray(result)
    if array.ndim == 0:
        array = np.full(n, array)
    if array.shape != (n,):
        raise InvalidInput(
            f"The on-demand feature {name!r} has the shape {array.shape} for {n} rows.",
            hint="Compute elementwise: one value for each row.",
        )
    if dtype is DType.STRING:
        there = np.array([isinstance(value, str) for value in array], np.bool_)
        return Values(np.asarray(array, np.object_), there)
    kinds = "bf" if dtype is DType.BOOL else "fiub"
    if array.dtype.kind not in kinds:
        raise InvalidInput(
            f"The on-demand feature {name!r} is {array.dtype}, not {dtype}.",
            hint="Return the declared type.",
        )
    valid = ~np.isnan(array) if array.dtype.kind == "f" else np.ones(n, np.bool_)
    if dtype is DType.FLOAT64:
        return Values(array.astype(np.float64), valid)
    kind = np.bool_ if dtype is DType.BOOL else np.int64
    with np.errstate(invalid="ignore"):
        return Values(np.where(valid, array, 0).astype(kind), valid)


@dataclass(frozen=True)
class ServicePlan:
    """All that is needed to compute the vectors of a service, offline and online."""

    service: FeatureService
    views: tuple[ViewUse, ...]
    on_demand: tuple[OnDemandUse, ...]
    entities: tuple[Entity, ...]
    outputs: Mapping[str, Type]
    """The columns of the vector, in order: request fields, then features."""
    request_fields: Mapping[str, DType]

    @classmethod
    def of(cls, service: FeatureService, definitions: DefinitionAccess) -> ServicePlan:
        """Compile a service.

        Raises:
            NotFound: it names a view or entity that has not been applied.
            InvalidInput: it names a feature that its view does not have, or one twice.
        """
        return _Compiler(service, definitions).plan()

    @classmethod
    def from_documents(cls, documents: Sequence[Mapping[str, Any]]) -> ServicePlan:
        """Compile from what ``documents`` gave; raises InvalidInput if one is malformed."""
        kinds: dict[str, type[Definition]] = {
            kind.kind: kind for kind in (Entity, FeatureView, OnDemandFeatures, FeatureService)
        }
        try:
            parsed = [
                kinds[document["kind"]].model_validate(
                    {name: value for name, value in document.items() if name not in _AROUND}
                )
                for document in documents
            ]
        except (KeyError, ValidationError) as error:
            raise InvalidInput(
                f"The documents of a feature service are malformed: {str(error)[:300]}",
                hint="Use what ServicePlan.documents() gave.",
            ) from None
        services = [item for item in parsed if isinstance(item, FeatureService)]
        if len(services) != 1:
            raise InvalidInput("The documents hold not exactly one feature service.")
        return cls.of(services[0], _Given(parsed))

    def documents(self) -> list[dict[str, Any]]:
        """The definitions that the plan is made of, JSON-ready, for a release to carry.

        Of a definition whose version the service names, ``version`` is that number.
        """
        parts: list[tuple[Definition, int | None]] = [
            *((entity, None) for entity in self.entities),
            *((use.plan.view, use.version) for use in self.views),
            *((use.definition, use.version) for use in self.on_demand),
            (self.service, None),
        ]
        return [
            {
                "kind": part.kind,
                **({} if version is None else {"version": version}),
                **part.model_dump(mode="json"),
            }
            for part, version in parts
        ]

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of each column that has one."""
        return {column_name(name): value for name, value in self.service.missing.items()}

    @cached_property
    def spine_columns(self) -> list[str]:
        """The columns that a spine or a request must have, but for the timestamp."""
        names = [name for use in self.views for name in use.key_columns]
        return list(dict.fromkeys([*self.request_fields, *names]))

    def offline(
        self,
        spine: pa.Table,
        at: Ints,
        look_up: Callable[[ViewUse, Sequence[pa.Array], Ints], Mapping[str, pa.Array]],
    ) -> dict[str, pa.Array]:
        """The vector's columns for each row of a spine.

        Args:
            spine: m rows with the keys and the request fields.
            at: (m,) UTC microseconds.
            look_up: gives a use's features by name, for key columns and instants.
        """
        columns: dict[str, pa.Array] = {
            name: typed(column_of(spine, name, of="The spine"), dtype, name)
            for name, dtype in self.request_fields.items()
        }
        for use in self.views:
            keys = [
                typed(column_of(spine, column, of="The spine"), dtype, column)
                for column, dtype in zip(use.key_columns, use.plan.keys.values(), strict=True)
            ]
            found = look_up(use, keys, at)
            for feature in use.features:
                columns[f"{use.plan.name}__{feature}"] = found[feature]
        for computed in self.on_demand:
            inputs = {column: _pair(columns[column], dtype) for _, column, dtype in computed.inputs}
            done = computed.computed(inputs, len(at))
            for output in computed.definition.outputs:
                name = f"{computed.definition.name}__{output.name}"
                columns[name] = _arrow(done[name], computed.definition.output_types[output.name])
        return {name: self._filled(name, columns[name]) for name in self.outputs}

    def _filled(self, name: str, column: pa.Array) -> pa.Array:
        if name not in self.defaults or not column.null_count:
            return column
        return column.fill_null(pa.scalar(self.defaults[name], arrow_type(self.outputs[name])))


def _pair(column: pa.Array, dtype: DType) -> tuple[Any, Array]:
    if dtype is DType.STRING:
        texts = np.array(column.to_pylist() or [], dtype=np.object_)
        return texts, np.array([text is not None for text in texts], np.bool_)
    values = Values.of(column, dtype, "")
    return values.values, values.valid


def _arrow(values: Values, dtype: DType) -> pa.Array:
    if dtype is DType.STRING:
        kept = zip(values.values, values.valid, strict=True)
        return pa.array([value if valid else None for value, valid in kept], pa.string())
    return values.to_arrow(dtype)


class _Given:
    """Definitions out of a list."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self._found = {(item.kind, item.name): item for item in definitions}

    def get(self, kind: str, name: str) -> Definition:
        if (kind, name) not in self._found:
            raise InvalidInput(f"The documents of the service lack the {kind} {name!r}.")
        return self._found[kind, name]

    def version(self, kind: str, name: str, version: int) -> Definition:
        # The documents hold each definition once, in the version that the service takes.
        return self.get(kind, name)

    def all(self, kind: str) -> Sequence[Definition]:
        return [item for item in self._found.values() if item.kind == kind]


class _Compiler:
    def __init__(self, service: FeatureService, definitions: DefinitionAccess) -> None:
        self._service = service
        self._definitions = definitions
        self._plans: dict[str, ViewPlan] = {}
        self._entities: dict[str, Entity] = {}
        self._needed: dict[str, dict[str, None]] = {}
        self._outputs: dict[str, Type] = dict(service.request_fields)
        self._requested: dict[str, DType] = dict(service.request_fields)
        self._computed: dict[str, OnDemandUse] = {}
        self._versions = service.versions()

    def plan(self) -> ServicePlan:
        for name, _, feature in self._service.taken:
            offered = self._on_demand(name) if name in self._service.on_demand else self._view(name)
            if feature and feature not in offered:
                raise self._unknown(f"{name}:{feature}", offered)
            for one in [feature] if feature else list(offered):
                self._add(name, one, offered[one])
        uses = tuple(self._use(name, plan) for name, plan in self._plans.items())
        unknown = set(self._service.keys) - set(self._plans)
        strangers = {column_name(name) for name in self._service.missing} - set(self._outputs)
        if unknown or strangers:
            raise InvalidInput(
                f"The service {self._service.name!r} speaks of "
                f"{', '.join(sorted(unknown | strangers))}, which it does not take.",
                hint="`keys` goes by view, `missing` by view:feature or request field.",
            )
        return ServicePlan(
            service=self._service,
            views=uses,
            on_demand=tuple(self._computed.values()),
            entities=tuple(self._entities.values()),
            outputs=self._outputs,
            request_fields=self._requested,
        )

    def _add(self, name: str, feature: str, dtype: Type) -> None:
        column = f"{name}__{feature}"
        if column in self._outputs:
            raise InvalidInput(
                f"The service {self._service.name!r} takes {name}:{feature} twice.",
                hint="Name each feature once.",
            )
        self._outputs[column] = dtype
        if name in self._plans:
            self._needed[name][feature] = None

    def _view(self, name: str) -> dict[str, Type]:
        if name not in self._plans:
            view = self._get(FeatureView, name)
            entity = self._get(Entity, view.entity)
            self._plans[name] = ViewPlan.of(view, entity)
            self._entities[entity.name] = entity
            self._needed[name] = {}
        return self._plans[name].outputs

    def _on_demand(self, name: str) -> Mapping[str, Type]:
        if name not in self._computed:
            definition = self._get(OnDemandFeatures, name)
            inputs = tuple(
                (argument, *self._input(definition, reference))
                for argument, reference in definition.inputs.items()
            )
            function = ondemand.compiled(definition.source)
            version = self._versions.get(name)
            self._computed[name] = OnDemandUse(definition, function, inputs, version)
        definition = self._computed[name].definition
        return definition.output_types

    def _input(self, definition: OnDemandFeatures, reference: str) -> tuple[str, DType]:
        item, version = split_version(reference)
        name, feature = split_reference(item)
        if name == REQUEST:
            if feature not in self._requested:
                raise InvalidInput(
                    f"The on-demand features {definition.name!r} need the request field "
                    f"{feature!r}, which the service {self._service.name!r} does not declare.",
                    hint="Add it to `request_fields` with its type.",
                )
            return feature, self._requested[feature]
        self._agreed(definition, name, version)
        offered = self._view(name)
        if feature not in offered:
            raise self._unknown(reference, offered)
        dtype = offered[feature]
        if not isinstance(dtype, DType) or dtype is DType.BYTES:
            raise InvalidInput(
                f"The on-demand features {definition.name!r} take {reference}, which is {dtype}.",
                hint="They compute with numbers, bools, instants and strings.",
            )
        self._needed[name][feature] = None
        return column_name(item), dtype

    def _agreed(self, definition: OnDemandFeatures, view: str, version: int | None) -> None:
        """Let the version that on-demand features name count, if the service takes no other."""
        if version is None:
            return
        if view in self._plans or view in self._service.versions():
            taken = self._versions.get(view)
            if taken != version:
                raise InvalidInput(
                    f"The service {self._service.name!r} takes "
                    f"{'the current version' if taken is None else f'version {taken}'} of "
                    f"{view!r}, but its on-demand features {definition.name!r} version {version}.",
                    hint="Name the same version in both.",
                )
        self._versions[view] = version

    def _use(self, name: str, plan: ViewPlan) -> ViewUse:
        mapped = self._service.keys.get(name, {})
        if not set(mapped) <= set(plan.keys):
            raise self._unknown(f"{name} key {sorted(set(mapped) - set(plan.keys))}", plan.keys)
        columns = tuple(mapped.get(key, key) for key in plan.keys)
        return ViewUse(plan, columns, tuple(self._needed[name]), self._versions.get(name))

    def _get(self, kind: type[D], name: str) -> D:
        version = self._versions.get(name) if kind in (FeatureView, OnDemandFeatures) else None
        if version is None:
            found = self._definitions.get(kind.kind, name)
        else:
            found = self._definitions.version(kind.kind, name, version)
        if not isinstance(found, kind):
            raise InvalidInput(f"{kind.kind} {name!r} is a {type(found).__name__}.")
        return found

    def _unknown(self, what: str, offered: Mapping[str, Any]) -> InvalidInput:
        return InvalidInput(
            f"The service {self._service.name!r} asks for {what!r}, which there is not.",
            hint=f"There are: {told(list(offered))}.",
        )


def told(names: Sequence[str], most: int = 20) -> str:
    """Names in a sentence; of very many the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
