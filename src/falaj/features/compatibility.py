"""What a changed definition means to those who use it: compatible, or not.

A change is compatible if every feature that was there before is still computed the same
way from the same rows. Adding features is compatible; removing or renaming one, or
changing what it is made of (type, column, window, function, filter, source, entity, times,
time to live, lateness, subject), is not. An incompatible change waits until every applied
service that takes an affected feature names the version that it means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from falaj.catalog.definitions import Definition, Resulting
from falaj.catalog.planning import FieldChange, PlannedDefinition, Step
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandFeatures,
)

_NO_MEANING = {
    "description": "it says nothing of values",
    "owner": "it says nothing of values",
    "tags": "it says nothing of values",
    "region": "it says nothing of values",
    "classification": "values stay as they are",
    "head": "stored rows are laid out anew, values stay as they are",
}
_ALL_FEATURES = {
    "entity": "the features would be of something else",
    "source": "the rows would be others",
    "event_time": "the rows would count at other times",
    "recorded_at": "the rows would be known at other times",
    "ttl": "values would expire at another age",
    "allowed_lateness": "other late events would count",
    "subject": "rows would stand under the keys of other persons",
    "subject_kind": "rows would stand under the keys of other persons",
}
_PARTS = ("features", "aggregates")
Find = Callable[..., Definition]
"""``find(connection, kind, name, version)``; raises NotFound."""
Affected = tuple[list[FieldChange], frozenset[str]]
"""The judged changes, and the names of the features that would mean something else."""


def judged(kind: str, changes: Sequence[FieldChange], before: Sequence[str]) -> Affected:
    """Judge the changes of a view, or of on-demand features.

    Args:
        kind: which of the two.
        changes: its fields that differ.
        before: the names of what it offered before.

    Returns:
        The changes with ``compatible`` and ``why`` set, and what would mean something else.
    """
    judge = _of_view if kind == FeatureView.kind else _of_on_demand
    found: list[FieldChange] = []
    affected: set[str] = set()
    for change in changes:
        hit, why = judge(change, before)
        found.append(change.model_copy(update={"compatible": not hit, "why": why}))
        affected.update(hit)
    return found, frozenset(affected)


Judgement = tuple[Sequence[str], str]
"""The features that are affected, none if the change is compatible, and why."""


def _of_view(change: FieldChange, before: Sequence[str]) -> Judgement:
    field, old, new = change.field, change.before, change.after
    if field in _PARTS:
        return _of_features(change, _meaning(field))
    affected, why = before, "it may change what the features mean"
    if field in _NO_MEANING:
        affected, why = (), _NO_MEANING[field]
    elif field in _ALL_FEATURES:
        why = _ALL_FEATURES[field]
    elif field == "purposes":
        affected, why = _of_purposes(change, before)
    elif field == "where":
        same = _filters(old) == _filters(new)
        affected, why = ((), "the filters are the same") if same else (before, "other rows count")
    elif field == "entity_columns":
        same = _mapped(old) == _mapped(new)
        affected, why = ((), "the same columns") if same else (before, "keys are other columns")
    return affected, why


def _of_on_demand(change: FieldChange, before: Sequence[str]) -> Judgement:
    if change.field in _NO_MEANING:
        return (), _NO_MEANING[change.field]
    if change.field == "outputs":
        return _of_features(change, lambda one: (Feature.model_validate(one).dtype,))
    told = {"source": "the function computes otherwise", "inputs": "it computes of something else"}
    return before, told.get(change.field, "it may change what the features mean")


def _of_features(change: FieldChange, meaning: Callable[[Any], Any]) -> Judgement:
    old = {one["name"]: meaning(one) for one in change.before or ()}
    new = {one["name"]: meaning(one) for one in change.after or ()}
    removed = [name for name in old if name not in new]
    changed = [name for name in old if name in new and old[name] != new[name]]
    added = [name for name in new if name not in old]
    parts = [(removed, "removed"), (changed, "changed"), (added, "added")]
    why = "; ".join(f"{what} {_few(names)}" for names, what in parts if names)
    return [*removed, *changed], why or "the features are the same"


def _meaning(field: str) -> Callable[[Any], Any]:
    def feature(one: Any) -> Any:
        read = Feature.model_validate(one)
        return read.dtype, read.column

    def aggregate(one: Any) -> Any:
        read = Aggregate.model_validate(one)
        return (read.function, read.column, read.dtype, read.window_us, read.hop_us, read.k,
                read.q)  # fmt: skip

    return feature if field == "features" else aggregate


def _of_purposes(change: FieldChange, before: Sequence[str]) -> Judgement:
    old, new = set(change.before or ()), set(change.after or ())
    wider = not new or (bool(old) and new >= old)
    return (
        ((), "it may be read for more")
        if wider
        else (before, "it could be read for fewer purposes")
    )


def _filters(value: Any) -> set[str]:
    return {json.dumps(one, sort_keys=True) for one in value or ()}


def _mapped(value: Any) -> dict[str, str]:
    return {key: column for key, column in (value or {}).items() if key != column}


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


class Compatibility:
    """Judges the changes of views, on-demand features and entities; a ``Review``.

    Nothing is refused here: what stands against a change is written into the plan, and
    ``apply`` refuses it.

    Args:
        find: one version of a definition: ``Definitions.definition``, bound late.
    """

    def __init__(self, find: Find) -> None:
        self._find = find

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], after: Resulting
    ) -> list[PlannedDefinition]:
        """The items with their changes judged and their obstacles told."""
        return [
            self._item(connection, item, after) if item.step is Step.UPDATE else item
            for item in items
        ]

    def _item(
        self, connection: Connection, item: PlannedDefinition, after: Resulting
    ) -> PlannedDefinition:
        if item.kind == Entity.kind:
            return _entity(item, after)
        if item.kind not in (FeatureView.kind, OnDemandFeatures.kind):
            return item
        changes, affected = judged(item.kind, item.changes, _offered(item, after))
        obstacles = self._obstacles(connection, item, affected, after) if affected else []
        old = item.version - 1
        return item.model_copy(
            update={
                "changes": changes,
                "obstacles": obstacles,
                "way_out": f"Name the version there ({item.name}@{old}:feature), apply, and "
                "then change this." if obstacles else "",
            }
        )  # fmt: skip

    def _obstacles(
        self,
        connection: Connection,
        item: PlannedDefinition,
        affected: frozenset[str],
        after: Resulting,
    ) -> list[str]:
        found = []
        for service in after.all(FeatureService.kind):
            if not isinstance(service, FeatureService):
                continue
            taken = self._taken(connection, service, item, after)
            hit = sorted(affected if "" in taken else affected & taken)
            if hit:
                found.append(
                    f"The feature service {service.name!r} takes "
                    f"{_few([f'{item.name}:{name}' for name in hit])} without naming a version."
                )
        return found

    def _taken(
        self,
        connection: Connection,
        service: FeatureService,
        item: PlannedDefinition,
        after: Resulting,
    ) -> set[str]:
        """The features of a definition that a service takes as they are now ("" for all)."""
        if service.versions().get(item.name) is not None:
            return set()
        on_demand = item.kind == OnDemandFeatures.kind
        found = {
            feature
            for name, _, feature in service.taken
            if name == item.name and (name in service.on_demand) == on_demand
        }
        if not on_demand:
            for name in service.on_demand:
                version = service.versions().get(name)
                one = (
                    after.get(OnDemandFeatures.kind, name)
                    if version is None
                    else self._find(connection, OnDemandFeatures.kind, name, version)
                )
                if isinstance(one, OnDemandFeatures):
                    found |= {feature for view, pinned, feature in one.taken
                              if view == item.name and pinned is None}  # fmt: skip
        return found


def _offered(item: PlannedDefinition, after: Resulting) -> list[str]:
    """The names of what a definition offered before."""
    parts = _PARTS if item.kind == FeatureView.kind else ("outputs",)
    changed = {change.field: change.before or () for change in item.changes}
    now = after.get(item.kind, item.name)
    found: list[str] = []
    for part in parts:
        if part in changed:
            found += [one["name"] for one in changed[part]]
        elif now is not None:
            found += [one.name for one in getattr(now, part)]
    return found


def _entity(item: PlannedDefinition, after: Resulting) -> PlannedDefinition:
    """The keys of an entity stay, as long as a view is about it."""
    changes = []
    obstacles: list[str] = []
    for change in item.changes:
        if change.field != "keys":
            changes.append(change.model_copy(update={
                "compatible": True, "why": _NO_MEANING.get(change.field, "the keys stay"),
            }))  # fmt: skip
            continue
        changes.append(change.model_copy(update={
            "compatible": False, "why": "its views would be about something else",
        }))  # fmt: skip
        obstacles = [
            f"The feature view {view.name!r} is about it."
            for view in after.all(FeatureView.kind)
            if isinstance(view, FeatureView) and view.entity == item.name
        ]
    way_out = "Declare an entity of another name, and views about that one." if obstacles else ""
    return item.model_copy(update={"changes": changes, "obstacles": obstacles, "way_out": way_out})
