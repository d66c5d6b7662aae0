"""Definitions: what people declare in their own repository, planned, applied, versioned.

``plan`` says what ``apply`` would do; ``apply`` does it in the transaction of its call, so
that all of it happens or nothing. Applying the same documents again changes nothing.
Definitions that are no longer declared are named by the plan and kept as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from sqlalchemy import Row, and_, func, insert, select, update
from sqlalchemy.engine import Connection

from falaj.catalog import tables
from falaj.catalog.assets import Catalog, check_may_lower, check_may_move
from falaj.catalog.model import Classification, Relation, checked_owner, checked_region, lowers
from falaj.catalog.planning import (
    FieldChange,
    Plan,
    PlannedDefinition,
    Step,
    VersionedDefinition,
)
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.insertion import insert_if_absent

NAME = r"^[a-z][a-z0-9_-]{0,62}$"
_APPLY_LOCK = "definitions.apply"


class Definition(BaseModel):
    """One declared thing. Rooms subclass it, set ``kind`` and add their fields.

    ``kind`` is the asset kind. ``relation`` says how what it refers to flows into it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    relation: ClassVar[Relation] = Relation.FEEDS
    proposed: ClassVar[bool] = False
    """True if it is not applied by whoever may declare things, but proposed by an administrator
    and approved by another person."""

    name: str = Field(pattern=NAME)
    description: str = ""
    owner: str | None = None
    """A principal or a team; the one who applies it first, if none is named."""
    tags: tuple[str, ...] = ()
    classification: Classification | None = None
    region: str | None = None

    @field_validator("owner", "region")
    @classmethod
    def _named(cls, value: str | None, field: ValidationInfo) -> str | None:
        check = checked_owner if field.field_name == "owner" else checked_region
        try:
            return value if value is None else check(value)
        except InvalidInput as error:
            raise ValueError(f"{error.message} {error.hint}") from None

    @property
    def ref(self) -> AssetRef:
        """The asset that this definition declares."""
        return AssetRef(self.kind, self.name)

    def references(self) -> list[AssetRef]:
        """The assets that flow into this one; none, unless a subclass says so."""
        return []

    def document(self) -> dict[str, Any]:
        """The definition as JSON-ready data, with its kind."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the document as canonical JSON: equal for equal definitions."""
        return _digest(self.document())


Document = Mapping[str, Any] | Definition
"""A definition, or what its ``document()`` gives."""
Applier = Callable[[Call, Any], None]
"""Makes a created or changed definition effective in its room, in the call's transaction."""


class IncompatibleChange(Conflict):
    """A definition that others rely on as it is would come to mean something else."""

    code = "incompatible-change"


class Resulting:
    """The definitions as a plan would leave them.

    Args:
        given: the declared definitions, by what they declare.
        stands: those that are applied and not among them, and what reads one.
    """

    def __init__(
        self,
        given: Mapping[AssetRef, Definition],
        stands: Mapping[AssetRef, VersionedDefinition],
        parsed: Callable[[Mapping[str, Any]], Definition],
    ) -> None:
        self._given = given
        self._kept = {ref: one for ref, one in stands.items() if ref not in given}
        self._parsed = parsed

    def get(self, kind: str, name: str) -> Definition | None:
        """A definition, or None."""
        ref = AssetRef(kind, name)
        if ref in self._given:
            return self._given[ref]
        kept = self._kept.get(ref)
        return None if kept is None else self._parsed(kept.document)

    def all(self, kind: str) -> list[Definition]:
        """Every definition of a kind, by name."""
        names = {ref.key for ref in (*self._given, *self._kept) if ref.kind == kind}
        return [found for name in sorted(names) if (found := self.get(kind, name)) is not None]


Review = Callable[[Connection, Sequence[PlannedDefinition], Resulting], list[PlannedDefinition]]
"""Judges the changes of a plan: the items again, with what it found; raises InvalidInput."""


class Definitions:
    """The definitions of a platform.

    Args:
        catalog: where each definition is an asset, with edges from what it refers to.
        kinds: the class of each kind of definition.
        appliers: what else happens when a definition of that kind is created or changed.
        reviews: judge every plan, one after the other.
    """

    def __init__(
        self,
        catalog: Catalog,
        kinds: Mapping[str, type[Definition]],
        appliers: Mapping[str, Applier],
        reviews: Sequence[Review] = (),
    ) -> None:
        strangers = set(appliers) - set(kinds)
        if strangers:
            raise ValueError(f"appliers for kinds that do not exist: {sorted(strangers)}")
        self._catalog = catalog
        self._kinds = dict(kinds)
        self._appliers = dict(appliers)
        self._reviews = tuple(reviews)

    def plan(self, connection: Connection, documents: Sequence[Document]) -> Plan:
        """What applying these documents would do; changes nothing.

        Raises:
            InvalidInput: a document is malformed, declared twice, refers to a definition
                that does not exist, or refers to itself in a circle.
        """
        plan, _ = self._planned(connection, documents)
        return plan

    def apply(
        self,
        call: Call,
        documents: Sequence[Document],
        *,
        planned: str | None = None,
        permit: Callable[[Plan], None] = lambda _: None,
    ) -> Plan:
        """Create and update what differs, upstream first; returns what was done.

        One apply runs at a time: a second one waits, then plans on what the first left.

        Args:
            call: the call in whose transaction all of it happens.
            documents: the declared definitions.
            planned: the ``digest`` of a plan; given it, nothing but that plan is done.
            permit: is shown the plan before anything is done, and raises to stop it.

        Raises:
            InvalidInput: as for ``plan``.
            Conflict: the platform has changed since that plan was made.
            IncompatibleChange: others rely on what would be changed.
            Forbidden: a classification would fall, and the caller is no steward.
        """
        self.alone(call.connection)
        plan, definitions = self._planned(call.connection, documents)
        if planned is not None and planned != plan.digest:
            raise Conflict(
                "The definitions have changed since this plan was made.",
                hint="Plan again, read what would change, and apply that.",
            )
        permit(plan)
        _refuse_obstructed(plan)
        for item in plan.effective():
            self._put(call, definitions[AssetRef(item.kind, item.name)], item)
        call.note(plan=plan.summary(), digest=plan.digest)
        return plan

    def current(self, connection: Connection, kind: str, name: str) -> dict[str, Any]:
        """The document of a definition as it stands now; raises NotFound."""
        return self.version(connection, kind, name).document

    def definition(
        self, connection: Connection, kind: str, name: str, version: int | None = None
    ) -> Definition:
        """A definition as it stands now, or an earlier version of it, as an object of its
        class; raises NotFound."""
        return self._parsed(self.version(connection, kind, name, version).document)

    def is_proposed(self, kind: str) -> bool:
        """True if definitions of a kind come into force only when another person approves."""
        return self._kinds[kind].proposed

    def parsed(self, kept: VersionedDefinition) -> Definition:
        """What was kept as an object of its class; raises InvalidInput if it no longer fits."""
        return self._parsed(kept.document)

    def version(
        self, connection: Connection, kind: str, name: str, version: int | None = None
    ) -> VersionedDefinition:
        """One version of a definition, the current one if none is named; raises NotFound."""
        versions = tables.definition_versions.c
        if version is None:
            query = self._current().where(versions.kind == kind, versions.name == name)
        else:
            query = select(tables.definition_versions).where(
                versions.kind == kind, versions.name == name, versions.version == version
            )
        row = connection.execute(query).first()
        if row is None:
            which = (
                f"{kind} {name!r}" if version is None else f"version {version} of {kind} {name!r}"
            )
            raise NotFound(
                f"There is no {which} among the definitions.",
                hint="`falaj definitions list` shows what has been applied.",
            )
        return _versioned(row)

    def history(self, connection: Connection, kind: str, name: str) -> list[VersionedDefinition]:
        """Every version of a definition, the newest first; raises NotFound."""
        versions = tables.definition_versions
        rows = connection.execute(
            select(versions)
            .where(versions.c.kind == kind, versions.c.name == name)
            .order_by(versions.c.version.desc())
        ).all()
        if not rows:
            self.version(connection, kind, name)
        return [_versioned(row) for row in rows]

    def listed(
        self, connection: Connection, *, kind: str | None = None
    ) -> list[VersionedDefinition]:
        """The current version of every definition, by kind and name."""
        versions = tables.definition_versions.c
        query = self._current().order_by(versions.kind, versions.name)
        if kind is not None:
            query = query.where(versions.kind == kind)
        return [_versioned(row) for row in connection.execute(query)]

    def every(self, connection: Connection, kind: str) -> list[VersionedDefinition]:
        """Every version of every definition of a kind, by name, the newest first."""
        versions = tables.definition_versions
        rows = connection.execute(
            select(versions)
            .where(versions.c.kind == kind)
            .order_by(versions.c.name, versions.c.version.desc())
        )
        return [_versioned(row) for row in rows]

    @staticmethod
    def stamp(connection: Connection) -> int:
        """A number that grows with everything that is applied."""
        total = select(func.coalesce(func.sum(tables.definitions.c.version), 0))
        return int(connection.execute(total).scalar_one())

    @staticmethod
    def _current() -> Any:
        versions, pointers = tables.definition_versions, tables.definitions
        return select(versions).join(
            pointers,
            and_(
                pointers.c.kind == versions.c.kind,
                pointers.c.name == versions.c.name,
                pointers.c.version == versions.c.version,
            ),
        )

    def alone(self, connection: Connection) -> None:
        """Wait until no other transaction applies definitions, and keep others waiting."""
        insert_if_absent(connection, tables.locks, {"name": _APPLY_LOCK})
        connection.execute(
            select(tables.locks).where(tables.locks.c.name == _APPLY_LOCK).with_for_update()
        )

    @staticmethod
    def hold(connection: Connection, kind: str, name: str) -> None:
        """Wait until no other transaction holds this definition or applies it, and keep others
        waiting. On SQLite whoever writes is alone anyhow."""
        which = tables.definitions.c.kind == kind, tables.definitions.c.name == name
        connection.execute(select(tables.definitions.c.name).where(*which).with_for_update())

    def _planned(
        self, connection: Connection, documents: Sequence[Document]
    ) -> tuple[Plan, dict[AssetRef, Definition]]:
        given = self._all_parsed(documents)
        stands = {AssetRef(one.kind, one.name): one for one in self.listed(connection)}
        items = [self._step(given[ref], stands.get(ref)) for ref in self._ordered(given, stands)]
        items += [
            PlannedDefinition(
                kind=ref.kind,
                name=ref.key,
                step=Step.KEPT,
                version=kept.version,
                fingerprint=kept.fingerprint,
            )
            for ref, kept in stands.items()
            if ref not in given
        ]
        resulting = Resulting(given, stands, self._parsed)
        for review in self._reviews:
            items = review(connection, items, resulting)
        digest = _digest([[item.kind, item.name, item.step, item.version, item.fingerprint]
                          for item in items])  # fmt: skip
        return Plan(items=items, digest=digest), given

    def _step(self, given: Definition, stands: VersionedDefinition | None) -> PlannedDefinition:
        what: dict[str, Any] = {"kind": given.kind, "name": given.name}
        what["fingerprint"] = given.fingerprint
        if stands is None:
            return PlannedDefinition(**what, step=Step.CREATE, version=1)
        changes = _differences(self._normal(stands.document), given.document())
        if not changes:
            return PlannedDefinition(**what, step=Step.UNCHANGED, version=stands.version)
        return PlannedDefinition(
            **what, step=Step.UPDATE, version=stands.version + 1, changes=changes
        )

    def _normal(self, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """A kept document as its class would write it today: fields that were added to the
        class since, with their defaults, are no difference."""
        try:
            return self._parsed(kept).document()
        except InvalidInput:
            return kept  # its class has changed since: then it differs as it stands

    def _all_parsed(self, documents: Sequence[Document]) -> dict[AssetRef, Definition]:
        given: dict[AssetRef, Definition] = {}
        problems: list[dict[str, str]] = []
        for document in documents:
            try:
                definition = self._parsed(document)
            except InvalidInput as error:
                problems += error.details["problems"]
                continue
            if definition.ref in given:
                problems.append(
                    {"definition": str(definition.ref), "problem": "it is declared twice"}
                )
            given[definition.ref] = definition
        if problems:
            raise _malformed(problems)
        return given

    def _parsed(self, document: Document) -> Definition:
        if isinstance(document, Definition):
            document = document.document()
        fields = dict(document)
        kind, name = fields.pop("kind", None), fields.get("name", "?")
        if kind not in self._kinds:
            known = ", ".join(sorted(self._kinds))
            raise _malformed(
                [
                    {
                        "definition": f"{kind}:{name}",
                        "problem": f"{kind!r} is not a kind of definition; there are: {known}",
                    }
                ]
            )
        try:
            return self._kinds[kind].model_validate(fields)
        except ValidationError as error:
            raise _malformed(
                [
                    {
                        "definition": f"{kind}:{name}",
                        "problem": f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}",
                    }
                    for item in error.errors(include_input=False, include_url=False)
                ]
            ) from None

    def _ordered(
        self, given: Mapping[AssetRef, Definition], stands: Iterable[AssetRef]
    ) -> list[AssetRef]:
        """The given definitions, each after those that it refers to."""
        known = {*given, *stands}
        problems = [
            {"definition": str(ref), "problem": f"it refers to {wanted}, which is not declared"}
            for ref, definition in given.items()
            for wanted in definition.references()
            if wanted.kind in self._kinds and wanted not in known
        ]
        if problems:
            raise _malformed(problems)
        sorter: TopologicalSorter[AssetRef] = TopologicalSorter()
        for ref, definition in sorted(given.items(), key=lambda pair: str(pair[0])):
            sorter.add(ref, *(one for one in definition.references() if one in given))
        try:
            return list(sorter.static_order())
        except CycleError as error:
            circle = " → ".join(map(str, error.args[1]))
            raise InvalidInput(
                f"These definitions refer to each other in a circle: {circle}.",
                hint="Data flows one way: take one of the references out.",
            ) from None

    def _put(self, call: Call, definition: Definition, item: PlannedDefinition) -> None:
        before: list[AssetRef] = []
        if item.step is Step.UPDATE:
            stands = self.current(call.connection, item.kind, item.name)
            before = self._references_of(stands)
            if lowers(stands.get("classification"), definition.classification):
                check_may_lower(call, definition.ref)
            if stands.get("region") not in (None, definition.region):
                check_may_move(call, definition.ref)
        self._store(call, definition, item)
        self._record(call, definition, item)
        after = definition.references()
        for gone in before:
            if gone not in after:
                self._catalog.unlink(call, gone, definition.ref, definition.relation)
        for wanted in after:
            if not self._catalog.exists(call.connection, wanted):
                # A table that the first load will fill: it has a name already.
                self._catalog.record(call, wanted)
            self._catalog.link(call, wanted, definition.ref, definition.relation)
        if item.kind in self._appliers:
            self._appliers[item.kind](call, definition)
        call.emit("definition.applied", kind=item.kind, name=item.name, version=item.version)

    def _references_of(self, document: Mapping[str, Any]) -> list[AssetRef]:
        try:
            return self._parsed(document).references()
        except InvalidInput:
            return []  # its class has changed since; the old edges stay as history

    def _store(self, call: Call, definition: Definition, item: PlannedDefinition) -> None:
        key = {"kind": item.kind, "name": item.name}
        call.connection.execute(
            insert(tables.definition_versions).values(
                **key,
                version=item.version,
                fingerprint=item.fingerprint,
                document=definition.document(),
                at=call.now,
                by=call.principal.id,
                call_id=call.id,
            )
        )
        pointers = tables.definitions
        if item.step is Step.CREATE:
            call.connection.execute(insert(pointers).values(**key, version=item.version))
            return
        call.connection.execute(
            update(pointers)
            .where(pointers.c.kind == item.kind, pointers.c.name == item.name)
            .values(version=item.version)
        )

    def _record(self, call: Call, definition: Definition, item: PlannedDefinition) -> None:
        self._catalog.record(call, definition.ref, owner=definition.owner)
        given: dict[str, Any] = {
            "description": definition.description,
            "tags": definition.tags,
            "attributes": {"definition_version": item.version, "fingerprint": item.fingerprint},
        }
        for name in ("owner", "classification", "region"):
            if getattr(definition, name) is not None:
                given[name] = getattr(definition, name)
        self._catalog.describe(call, definition.ref, **given)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChange]:
    return [
        FieldChange(field=name, before=before.get(name), after=after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def _malformed(problems: list[dict[str, str]]) -> InvalidInput:
    told = "; ".join(f"{item['definition']}: {item['problem']}" for item in problems[:5])
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return InvalidInput(
        f"The definitions cannot be taken as they are: {told}{more}.",
        hint="Correct them; nothing was changed.",
        problems=problems,
    )


def _refuse_obstructed(plan: Plan) -> None:
    for item in plan.effective():
        if item.obstacles:
            told = " ".join(item.obstacles[:5])
            more = f" (And {len(item.obstacles) - 5} more.)" if len(item.obstacles) > 5 else ""
            why = "; ".join(f"{one.field}: {one.why}" for one in item.changes
                            if one.compatible is False)  # fmt: skip
            raise IncompatibleChange(
                f"The {item.kind} {item.name!r} cannot be changed so ({why}). {told}{more}",
                hint=f"{item.way_out} Nothing was changed.",
                obstacles=item.obstacles,
            )


def _versioned(row: Row[Any]) -> VersionedDefinition:
    return VersionedDefinition.model_validate(
        {name: getattr(row, name) for name in VersionedDefinition.model_fields}
    )
