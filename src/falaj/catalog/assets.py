"""The catalogue: records assets, links them, finds them, and walks their lineage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, delete, insert, select, tuple_, update
from sqlalchemy.engine import Connection, Row

from falaj.catalog import tables
from falaj.catalog.attributes import LOAD, resource_of
from falaj.catalog.columns import COLUMNS, ORIGINS, lowered_columns, merged_columns
from falaj.catalog.model import (
    Asset,
    AssetVersion,
    Classification,
    Direction,
    Edge,
    Lineage,
    LineageNode,
    Relation,
    checked_owner,
    checked_ref,
    checked_region,
    checked_tags,
    lowers,
)
from falaj.kernel.call import AssetRef, Call, PrincipalKind
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound
from falaj.kernel.insertion import insert_all_absent, insert_if_absent
from falaj.kernel.ports import Resource
from falaj.kernel.statements import Statement, json_text

NESTED_KINDS = ("asset", "definition")
"""Kinds of resource whose key is the name of an asset, ``kind/key``."""
STEWARD = "steward"
"""The role that answers for classifications (it has the duty of that name)."""
_CHUNK = 200
_VERSIONED = ("description", "owner", "classification", "region", "tags", "attributes")


class Catalog:
    """Assets and lineage on the metadata database; fulfils ``kernel.ports.Resources``."""

    def record(
        self,
        call: Call,
        ref: AssetRef,
        *,
        description: str = "",
        owner: str | None = None,
        classification: Classification | None = None,
        region: str | None = None,
        tags: Sequence[str] = (),
        attributes: Mapping[str, Any] | None = None,
        columns: Mapping[str, Classification] | None = None,
        origins: Mapping[str, Sequence[str]] | None = None,
    ) -> Asset:
        """Create the asset, or bring what is given up to date; what is not given stays.

        Attributes are merged by name, and a value of None takes the name away. A new
        asset without an owner belongs to the caller. A change makes a new version. A
        classification, of the asset or of one of its ``columns``, is raised by this, never
        lowered: that is for ``describe``. ``origins`` name for a column those
        (``table/column``) that it was made of; more are added to those that are known.

        Raises:
            InvalidInput: a name, tag, owner or region is malformed.
        """
        given: dict[str, Any] = {"attributes": attributes or {}, COLUMNS: columns or {}}
        given[ORIGINS] = origins or {}
        if description:
            given["description"] = description
        if tags:
            given["tags"] = tags
        for name, value in (("owner", owner), ("classification", classification),
                            ("region", region)):  # fmt: skip
            if value is not None:
                given[name] = value
        created = self._create(call, checked_ref(ref), given)
        return created or self._change(call, ref, given, raising_only=True)

    def describe(self, call: Call, ref: AssetRef, **given: Any) -> Asset:
        """Set exactly what is given of an asset that exists; an empty value clears.

        Args:
            call: the call in whose transaction this happens.
            ref: which asset.
            **given: of description, owner, classification, region, tags, attributes,
                columns (a classification by column; None takes it away).

        Raises:
            NotFound: there is no such asset.
            InvalidInput: a tag, owner or region is malformed.
            Forbidden: the classification would fall, of the asset or of a column, and the
                caller is no steward.
        """
        unknown = set(given) - {*_VERSIONED, COLUMNS}
        if unknown:
            raise InvalidInput(f"An asset has no {', '.join(sorted(unknown))}.")
        return self._change(call, ref, given)

    def link(self, call: Call, source: AssetRef, target: AssetRef, relation: Relation) -> Edge:
        """Draw the edge "source flows into target"; a repeat changes nothing.

        Raises:
            NotFound: one of the two has not been recorded.
            InvalidInput: both are the same asset.
        """
        if source == target:
            raise InvalidInput(f"{source} cannot flow into itself.")
        for end in (source, target):
            self.get(call.connection, end)
        row = {**_edge_key(source, target, relation), "at": call.now, "by": call.principal.id}
        if insert_if_absent(call.connection, tables.edges, {**row, "call_id": call.id}):
            return Edge(source=source, target=target, relation=relation, at=call.now,
                        by=call.principal.id)  # fmt: skip
        kept = call.connection.execute(
            select(tables.edges).where(*_is_edge(source, target, relation))
        ).one()
        return _edge(kept)

    def draw(
        self,
        call: Call,
        assets: Mapping[AssetRef, Mapping[str, Any]],
        edges: Sequence[tuple[AssetRef, AssetRef, Relation]],
    ) -> None:
        """Record many new assets and edges at once; what stands already is left as it is."""
        rows, versions = [], []
        for ref, given in assets.items():
            state = _merged(_fresh(call), given)
            row = {**_stored(checked_ref(ref), state), "kind": ref.kind, "key": ref.key}
            row |= {"version": 1, "created_at": call.now, "updated_at": call.now}
            rows.append({**row, "created_by": call.principal.id})
            versions.append(_version_row(call, ref, 1, state))
        insert_all_absent(call.connection, tables.assets, rows)
        insert_all_absent(call.connection, tables.asset_versions, versions)
        about = {"at": call.now, "by": call.principal.id, "call_id": call.id}
        drawn = [{**_edge_key(*edge), **about} for edge in edges]
        insert_all_absent(call.connection, tables.edges, drawn)
        call.emit("assets.drawn", n_assets=len(rows), n_edges=len(drawn))

    def unlink(self, call: Call, source: AssetRef, target: AssetRef, relation: Relation) -> None:
        """Take an edge away; nothing happens if there is none."""
        call.connection.execute(delete(tables.edges).where(*_is_edge(source, target, relation)))

    def get(self, connection: Connection, ref: AssetRef) -> Asset:
        """One asset; raises NotFound."""
        row = connection.execute(select(tables.assets).where(*_is(ref))).first()
        if row is None:
            raise NotFound(
                f"There is no {ref.kind} {ref.key!r} in the catalogue.",
                hint="`falaj assets search` shows what there is.",
            )
        return _asset(row)

    def exists(self, connection: Connection, ref: AssetRef) -> bool:
        """True if the asset has been recorded."""
        return connection.execute(select(tables.assets.c.kind).where(*_is(ref))).first() is not None

    def versions(self, connection: Connection, ref: AssetRef) -> list[AssetVersion]:
        """Every version of an asset, the newest first; raises NotFound."""
        rows = connection.execute(
            select(tables.asset_versions)
            .where(tables.asset_versions.c.kind == ref.kind, tables.asset_versions.c.key == ref.key)
            .order_by(tables.asset_versions.c.version.desc())
        ).all()
        if not rows:
            self.get(connection, ref)
        return [
            AssetVersion.model_validate(
                {name: getattr(row, name) for name in AssetVersion.model_fields}
            )
            for row in rows
        ]

    def search(
        self,
        connection: Connection,
        text: str = "",
        *,
        kind: str | None = None,
        tag: str | None = None,
        owner: str | None = None,
        classification: Classification | None = None,
    ) -> Iterator[Asset]:
        """Assets whose kind, key, description or tags contain every word of the text.

        The best come first: the key is the text, begins with it, contains it; then those
        that changed last. Read lazily, a few hundred rows at a time.
        """
        table = tables.assets
        wanted: list[ColumnElement[bool]] = [
            table.c.searched.contains(word, autoescape=True) for word in text.lower().split()
        ]
        wanted += [
            column == value
            for column, value in (
                (table.c.kind, kind),
                (table.c.owner, owner),
                (table.c.classification, classification),
            )
            if value is not None
        ]
        if tag is not None:
            wanted.append(table.c.searched.contains(f"\n#{tag.lower()}\n", autoescape=True))
        phrase = text.strip()
        rank = case(
            (table.c.key == phrase, 0),
            (table.c.key.startswith(phrase, autoescape=True), 1),
            (table.c.key.contains(phrase, autoescape=True), 2),
            else_=3,
        )
        query = (
            select(table)
            .where(*wanted)
            .order_by(rank, table.c.updated_at.desc(), table.c.kind, table.c.key)
        )
        start = 0
        while True:
            rows = connection.execute(query.limit(_CHUNK).offset(start)).all()
            yield from map(_asset, rows)
            if len(rows) < _CHUNK:
                return
            start += _CHUNK

    def upstream(self, connection: Connection, ref: AssetRef) -> list[Edge]:
        """The edges that flow into this asset."""
        return [edge for _, edge in _edges_of(connection, [ref], Direction.UPSTREAM)]

    def downstream(self, connection: Connection, ref: AssetRef) -> list[Edge]:
        """The edges that flow out of this asset."""
        return [edge for _, edge in _edges_of(connection, [ref], Direction.DOWNSTREAM)]

    def walk(
        self,
        connection: Connection,
        ref: AssetRef,
        direction: Direction = Direction.UPSTREAM,
        *,
        max_depth: int = 20,
        max_assets: int = 2_000,
        seen: Callable[[Resource], bool] | None = None,
    ) -> Lineage:
        """Everything that this asset came from (upstream) or that comes from it, as a tree.

        An asset that is reached twice has its branches once, at its smallest depth, and is
        marked ``repeated`` elsewhere; so a cycle ends. One query for each level.

        Args:
            connection: where to read.
            ref: the asset to start at.
            direction: against the flow or with it.
            max_depth, max_assets: where the walk stops; the result says ``truncated``.
            seen: answers False for an asset that is left out, with all that lies beyond it.

        Raises:
            NotFound: the first asset is not in the catalogue.
        """
        self.get(connection, ref)
        root = LineageNode(ref=ref)
        placed, level, truncated, depth = {ref}, {ref: root}, False, 0
        while level:
            found = _edges_of(connection, list(level), direction)
            if depth >= max_depth:
                truncated = truncated or bool(found)
                break
            following: dict[AssetRef, LineageNode] = {}
            hidden = self.hidden(connection, [_far(edge, direction) for _, edge in found], seen)
            for start, edge in found:
                other = _far(edge, direction)
                if other in hidden:
                    continue
                node = LineageNode(ref=other, relation=edge.relation, at=edge.at)
                node.repeated = other in placed
                if not node.repeated:
                    if len(placed) >= max_assets:
                        truncated = True
                        continue
                    placed.add(other)
                    following[other] = node
                level[start].branches.append(node)
            level, depth = following, depth + 1
        return Lineage(direction=direction, root=root, truncated=truncated)

    def hidden(
        self,
        connection: Connection,
        refs: Sequence[AssetRef],
        seen: Callable[[Resource], bool] | None,
    ) -> set[AssetRef]:
        """Those of the assets that ``seen`` answers False for; a few hundred in one query."""
        hidden: set[AssetRef] = set()
        if seen is None:
            return hidden
        unique = list(dict.fromkeys(refs))
        table = tables.assets
        for start in range(0, len(unique), _CHUNK):
            names = [(ref.kind, ref.key) for ref in unique[start : start + _CHUNK]]
            rows = connection.execute(
                select(table).where(tuple_(table.c.kind, table.c.key).in_(names))
            )
            found = map(_asset, rows)
            hidden |= {asset.ref for asset in found if not seen(as_resource(asset))}
        return hidden

    def load(self, connection: Connection, ref: AssetRef) -> Resource:
        """The attributes of an asset as the policy sees them (``kernel.ports.Resources``)."""
        if ref.kind in NESTED_KINDS:
            kind, _, key = ref.key.partition("/")
            ref = AssetRef(kind, key)
        row = LOAD.first(connection, (ref.kind, ref.key))
        return Resource(ref, exists=False) if row is None else resource_of(ref, *row)

    def record_new(
        self, call: Call, ref: AssetRef, *, description: str, attributes: Mapping[str, Any]
    ) -> None:
        """Create an asset whose key was made just now, so that nobody else can have made it.

        As ``record`` does for an owner who is the caller, at a quarter of its cost.

        Raises:
            InvalidInput: a name or the owner is malformed.
        """
        state = _merged(
            {"description": "", "owner": call.principal.id, "classification": None,
             "region": None, "tags": (), "attributes": {}},
            {"description": description, "attributes": attributes},
        )  # fmt: skip
        stored = _stored(checked_ref(ref), state)
        at, by = microseconds(call.now), call.principal.id
        _INSERT_NEW.run(
            call.connection,
            (ref.kind, ref.key, stored["description"], stored["owner"], "[]",
             json_text(stored["attributes"]), at, by, at, stored["searched"]),
        )  # fmt: skip
        _INSERT_VERSION.run(
            call.connection,
            (ref.kind, ref.key, at, by, call.action, call.id, json_text({**state, "tags": []})),
        )
        call.emit("asset.recorded", kind=ref.kind, key=ref.key, version=1)

    def _create(self, call: Call, ref: AssetRef, given: Mapping[str, Any]) -> Asset | None:
        """The new asset, or None if there is one already."""
        state = _merged(_fresh(call), given)
        row = {**_stored(ref, state), "kind": ref.kind, "key": ref.key, "version": 1}
        row |= {"created_at": call.now, "created_by": call.principal.id, "updated_at": call.now}
        if not insert_if_absent(call.connection, tables.assets, row):
            return None
        self._keep_version(call, ref, 1, state)
        call.emit("asset.recorded", kind=ref.kind, key=ref.key, version=1)
        return self.get(call.connection, ref)

    def _change(
        self,
        call: Call,
        ref: AssetRef,
        given: Mapping[str, Any],
        *,
        raising_only: bool = False,
    ) -> Asset:
        row = call.connection.execute(
            select(tables.assets).where(*_is(ref)).with_for_update()
        ).first()
        if row is None:
            return self.get(call.connection, ref)  # raises NotFound
        before = {name: getattr(row, name) for name in _VERSIONED}
        before["tags"] = tuple(before["tags"])
        after = _merged(before, given, raising_only=raising_only)
        if lowers(before["classification"], after["classification"]):
            if raising_only:
                after["classification"] = before["classification"]
            else:
                check_may_lower(call, ref)
        if before["region"] is not None and after["region"] != before["region"]:
            if raising_only:
                after["region"] = before["region"]
            else:
                check_may_move(call, ref)
        for column in lowered_columns(
            before["attributes"].get(COLUMNS) or {}, after["attributes"].get(COLUMNS) or {}
        ):
            check_may_lower(call, ref, column)
        if after == before:
            return _asset(row)
        version = row.version + 1
        call.connection.execute(
            update(tables.assets)
            .where(*_is(ref))
            .values(**_stored(ref, after), version=version, updated_at=call.now)
        )
        self._keep_version(call, ref, version, after)
        call.emit("asset.recorded", kind=ref.kind, key=ref.key, version=version)
        return self.get(call.connection, ref)

    def _keep_version(
        self, call: Call, ref: AssetRef, version: int, state: Mapping[str, Any]
    ) -> None:
        row = _version_row(call, ref, version, state)
        call.connection.execute(insert(tables.asset_versions).values(**row))


def check_may_lower(call: Call, ref: AssetRef, column: str | None = None) -> None:
    """Raise Forbidden unless the caller may lower the classification of an asset, or of a
    column of it.

    Who builds on data must not be who decides that it is harmless.
    """
    if call.principal.kind is PrincipalKind.SYSTEM or STEWARD in call.principal.roles:
        return
    what = f"{ref}" if column is None else f"the column {column!r} of {ref}"
    raise Forbidden(
        f"You may not lower the classification of {what}.",
        hint="Ask a steward; anybody who may describe it may raise it.",
    )


def check_may_move(call: Call, ref: AssetRef) -> None:
    """Raise Forbidden unless the caller may say that an asset belongs to another region."""
    if call.principal.kind is PrincipalKind.SYSTEM or STEWARD in call.principal.roles:
        return
    raise Forbidden(
        f"You may not change the region of {ref}.", hint="Ask a steward; where none is set,"
        " anybody who may describe it may set one.",
    )  # fmt: skip


def as_resource(asset: Asset) -> Resource:
    """An asset as the policy sees it; what is unknown is absent."""
    return resource_of(asset.ref, asset.owner, asset.classification, asset.region, asset.attributes)


_INSERT_NEW = Statement(
    "INSERT INTO catalog_assets (kind, key, description, owner, tags, attributes, version,"
    " created_at, created_by, updated_at, searched) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)"
)
_INSERT_VERSION = Statement(
    "INSERT INTO catalog_asset_versions (kind, key, version, at, by, action, call_id, state)"
    " VALUES (?, ?, 1, ?, ?, ?, ?, ?)"
)


def _merged(
    before: Mapping[str, Any], given: Mapping[str, Any], *, raising_only: bool = True
) -> dict[str, Any]:
    after = {**before, **given}
    columns, origins = after.pop(COLUMNS, None) or {}, after.pop(ORIGINS, None) or {}
    after["attributes"] = {
        name: value
        for name, value in {**before["attributes"], **given.get("attributes", {})}.items()
        if value is not None
    }
    if columns:
        known = after["attributes"].get(COLUMNS) or {}
        after["attributes"][COLUMNS] = merged_columns(known, columns, raising_only=raising_only)
    if origins:
        known = after["attributes"].get(ORIGINS) or {}
        after["attributes"][ORIGINS] = {
            name: sorted({*known.get(name, ()), *origins.get(name, ())})
            for name in sorted({*known, *origins})
        }
    after["tags"] = checked_tags(after["tags"] or ())
    after["description"] = (after["description"] or "").strip()
    after["owner"] = checked_owner(after["owner"])
    after["region"] = checked_region(after["region"]) if after["region"] else None
    if after["classification"] is not None:
        after["classification"] = str(Classification(after["classification"]))
    return after


def _stored(ref: AssetRef, state: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a state, with the text that search looks into."""
    marked = "".join(f"#{tag}\n" for tag in state["tags"])
    described = " ".join(str(state["description"]).split())
    searched = f"{ref.kind} {ref.key}\n{described}\n{marked}".lower()
    return {**state, "tags": list(state["tags"]), "searched": searched}


def _is(ref: AssetRef) -> tuple[ColumnElement[bool], ...]:
    return (tables.assets.c.kind == ref.kind, tables.assets.c.key == ref.key)


def _edge_key(source: AssetRef, target: AssetRef, relation: Relation) -> dict[str, str]:
    return {
        "source_kind": source.kind,
        "source_key": source.key,
        "target_kind": target.kind,
        "target_key": target.key,
        "relation": str(relation),
    }


def _is_edge(
    source: AssetRef, target: AssetRef, relation: Relation
) -> tuple[ColumnElement[bool], ...]:
    key = _edge_key(source, target, relation)
    return tuple(tables.edges.c[name] == value for name, value in key.items())


def _fresh(call: Call) -> dict[str, Any]:
    """The state of an asset of which nothing is known yet."""
    return {
        "description": "", "owner": call.principal.id, "classification": None, "region": None,
        "tags": (), "attributes": {},
    }  # fmt: skip


def _version_row(
    call: Call, ref: AssetRef, version: int, state: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "kind": ref.kind,
        "key": ref.key,
        "version": version,
        "at": call.now,
        "by": call.principal.id,
        "action": call.action,
        "call_id": call.id,
        "state": {**state, "tags": list(state["tags"])},
    }


def _far(edge: Edge, direction: Direction) -> AssetRef:
    """The end of an edge that lies further on in the walk."""
    return edge.source if direction is Direction.UPSTREAM else edge.target


def _edges_of(
    connection: Connection, refs: Sequence[AssetRef], direction: Direction
) -> list[tuple[AssetRef, Edge]]:
    """The edges beyond these assets, each with the asset that it starts from."""
    columns = tables.edges.c
    near = "target" if direction is Direction.UPSTREAM else "source"
    found: list[tuple[AssetRef, Edge]] = []
    for start in range(0, len(refs), _CHUNK):
        names = [(ref.kind, ref.key) for ref in refs[start : start + _CHUNK]]
        rows = connection.execute(
            select(tables.edges)
            .where(tuple_(columns[f"{near}_kind"], columns[f"{near}_key"]).in_(names))
            .order_by(columns.at, *(columns[name] for name in _EDGE_ORDER))
        )
        for row in rows:
            edge = _edge(row)
            found.append((edge.target if near == "target" else edge.source, edge))
    return found


_EDGE_ORDER = ("source_kind", "source_key", "target_kind", "target_key", "relation")


def _edge(row: Row[Any]) -> Edge:
    return Edge(
        source=AssetRef(row.source_kind, row.source_key),
        target=AssetRef(row.target_kind, row.target_key),
        relation=Relation(row.relation),
        at=row.at,
        by=row.by,
    )


def _asset(row: Row[Any]) -> Asset:
    return Asset.model_validate({name: getattr(row, name) for name in Asset.model_fields})
