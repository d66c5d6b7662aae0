"""A lake that seals what is personal: exactly as the lake below it, for whoever has the keys.

Rules stand in a table of the lake itself, so that a rule and the rows that it is about are
in the same backup, and each write reads the rules that hold. What is stored is told in
``sealedrows``. Conditions and orders over columns in clear are worked out by the engine on
the stored rows; the others on rows that were opened, which are then held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.model import (
    Column,
    Compaction,
    Extent,
    QueryRefused,
    SchemaMismatch,
    Snapshot,
    TableInfo,
    table_name,
)
from falaj.lake.personal import PersonalRule, refuse_erased_since
from falaj.lake.ports import StandInLake
from falaj.lake.rows import fitted, prepared
from falaj.lake.sealedreading import Stored, derived_rule
from falaj.lake.sealedrows import (
    HIDDEN,
    KeysFor,
    Layout,
    clear_schema,
    layouts_of,
    opened_rows,
    pseudonyms_of,
    sealed_rows,
    without_hidden,
)
from falaj.trust.subjects import Subject, SubjectKey, SubjectKeys

RULES = "falaj_personal_rules"
"""The table of rules, which nobody else reads or writes."""


class SubjectLake:
    """A ``Lake`` around a lake, and ``PersonalRules``; safe wherever the inner one is.

    Args:
        inner: keeps the rows.
        keys: of the subjects.
    """

    name = "lake"

    def __init__(self, inner: StandInLake, keys: SubjectKeys) -> None:
        self._inner = inner
        self._keys = keys
        self._counted = 0

    # -- rules ---------------------------------------------------------------------------

    def record_rule(self, rule: PersonalRule) -> None:
        """See ``PersonalRules.record_rule``."""
        stands = self.rule(rule.table)
        if stands is None or rule.following(stands) != stands:
            now = pa.array([datetime.now(UTC)], pa.timestamp("us", tz="UTC"))
            row = {"name": [rule.table], "document": [rule.model_dump_json()], "recorded_at": now}
            self._inner.append(RULES, pa.table(row))

    def rule(self, table: str) -> PersonalRule | None:
        """See ``PersonalRules.rule``."""
        return self._rules([table]).get(table)

    def rule_of_query(self, sql: str, table: str, columns: Sequence[str]) -> PersonalRule | None:
        """See ``PersonalRules.rule_of_query``."""
        read = sorted(self._inner.reads(sql))
        rules = self._rules(read)
        for one in read:  # rules that were lost let nothing through in clear here either
            layouts = layouts_of(self._inner.schema(one)) if one not in rules else []
            if layouts:
                rules[one] = PersonalRule(table=one, groups=_latest(layouts))
        if not rules:
            return None
        known = {one: self.schema(one).names for one in read}
        return derived_rule(sql, table, columns, list(rules.values()), known)

    def _rules(self, tables: Iterable[str]) -> dict[str, PersonalRule]:
        named = {f"t{number}": table for number, table in enumerate(tables)}
        if not named:
            return {}
        try:
            rows = self._inner.scan(
                RULES,
                where=f"name IN ({', '.join(f'${key}' for key in named)})",
                order_by=["recorded_at"],
                parameters=named,
            )
        except NotFound:
            return {}
        found: dict[str, PersonalRule] = {}
        for table, text in zip(rows["name"].to_pylist(), rows["document"].to_pylist(), strict=True):
            rule = PersonalRule.model_validate_json(text)
            before = found.get(table)
            found[table] = rule if before is None else rule.following(before)
        return found

    # -- writing -------------------------------------------------------------------------

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        key: str | None = None,
        add_columns: bool = False,
        since: int | None = None,
    ) -> Snapshot:
        """See ``Lake.append``."""
        return self.append_many({table: rows}, key=key, add_columns=add_columns, since=since)

    def append_many(
        self,
        rows: Mapping[str, pa.Table],
        *,
        key: str | None = None,
        add_columns: bool = False,
        replace: Collection[str] = (),
        since: int | None = None,
    ) -> Snapshot:
        """See ``Lake.append_many``."""
        ready = {self._open_to_all(table): prepared(table, given) for table, given in rows.items()}
        stands = {table: None if table in replace else self._stored(table) for table in ready}
        rules = self._applying(ready, stands)
        if not rules:
            return self._inner.append_many(ready, key=key, add_columns=add_columns, replace=replace)
        if key is not None and self._inner.written(key) is not None:
            nothing = {table: given.slice(0, 0) for table, given in ready.items()}
            return self._inner.append_many(nothing, key=key, replace=replace)
        for table, schema in stands.items():
            if schema is not None:  # as the inner lake would hold them to the clear columns
                clear = clear_schema(schema)
                ready[table] = fitted(table, ready[table], clear, add_columns=add_columns)[0]
        for table, rule in rules.items():
            there = stands[table]
            layouts = [] if there is None else layouts_of(there)
            fit = _fitting(rule, ready[table])
            ready[table] = sealed_rows(
                ready[table], fit, self._keys_for_rows(since), existing=layouts
            )
        return self._inner.append_many(ready, key=key, add_columns=True, replace=replace)

    def replace(self, table: str, rows: pa.Table, *, key: str | None = None) -> Snapshot:
        """See ``Lake.replace``."""
        return self.append_many({table: rows}, key=key, replace=[table])

    def replace_in_batches(self, table: str, batches: Callable[[], Iterable[pa.Table]]) -> Snapshot:
        """See ``Lake.replace_in_batches``."""
        self._open_to_all(table)

        def sealed() -> Iterator[pa.Table]:
            rule: PersonalRule | None = None
            for place, rows in enumerate(batches()):
                ready = prepared(table, rows)
                if place == 0:
                    rule = self._applying({table: ready}, {table: None}).get(table)
                fit = None if rule is None else _fitting(rule, ready)
                keys = self._keys_for_rows(None)
                yield ready if fit is None else sealed_rows(ready, fit, keys)

        return self._inner.replace_in_batches(table, sealed)

    def _applying(
        self, rows: Mapping[str, pa.Table], stands: Mapping[str, pa.Schema | None]
    ) -> dict[str, PersonalRule]:
        """The rules that these rows are sealed by.

        A table without a rule that has sealed rows goes on as they say: rules that were
        lost never let rows through in clear.
        """
        found = self._rules(rows)
        applying: dict[str, PersonalRule] = {}
        for table, given in rows.items():
            without_hidden(table, given)
            rule = found.get(table)
            if rule is None:
                schema = stands[table]
                stored = self._stored(table) if schema is None else schema
                layouts = [] if stored is None else layouts_of(stored)
                if not layouts:
                    continue
                rule = PersonalRule(table=table, groups=_latest(layouts))
            applying[table] = rule
        return applying

    # -- reading -------------------------------------------------------------------------

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        order_by: Sequence[str] | None = None,
        limit: int | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """See ``Lake.scan``."""
        stored = self._sealed(table, snapshot)
        if stored is None:
            return self._inner.scan(
                table,
                columns=columns,
                where=where,
                order_by=order_by,
                limit=limit,
                snapshot=snapshot,
                parameters=parameters,
            )
        wanted = stored.clear.names if columns is None else list(columns)
        clear_where = stored.is_clear_condition(where)
        if clear_where and stored.knows(wanted) and stored.is_clear(order_by or ()):
            rows = self._inner.scan(
                table,
                columns=stored.needed(wanted),
                where=where,
                order_by=order_by,
                limit=limit,
                snapshot=snapshot,
                parameters=parameters,
            )
            return opened_rows(table, rows, wanted, self._keys)
        at = self._inner.latest() if snapshot is None else snapshot
        early = where if clear_where else None
        rows = self._inner.scan(
            table, where=early, snapshot=at, parameters=parameters if early else None
        )
        late = None if clear_where else where
        return self._inner.query(
            _select(table, columns, late, order_by, limit),
            stand_ins={table: opened_rows(table, rows, None, self._keys)},
            snapshot=at,
            parameters=parameters if late else None,
        )

    def batches(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        snapshot: int | None = None,
        order_by: Sequence[str] | None = None,
        rows_per_batch: int = 65_536,
    ) -> pa.RecordBatchReader:
        """See ``Lake.batches``; ordered by, or filtered on, personal columns, the table is
        held in memory.
        """
        stored = self._sealed(table, snapshot)
        if stored is None:
            return self._inner.batches(
                table,
                columns=columns,
                where=where,
                snapshot=snapshot,
                order_by=order_by,
                rows_per_batch=rows_per_batch,
            )
        wanted = stored.clear.names if columns is None else list(columns)
        flows = stored.is_clear_condition(where) and stored.is_clear(order_by or ())
        if not (flows and stored.knows(wanted)):
            rows = self.scan(
                table, columns=columns, where=where, order_by=order_by, snapshot=snapshot
            )
            return pa.RecordBatchReader.from_batches(
                rows.schema, iter(rows.to_batches(max_chunksize=rows_per_batch))
            )
        reader = self._inner.batches(
            table,
            columns=stored.needed(wanted),
            where=where,
            snapshot=snapshot,
            order_by=order_by,
            rows_per_batch=rows_per_batch,
        )
        schema = pa.schema([stored.clear.field(name) for name in wanted])
        return self._flowing(table, reader, wanted, schema)

    def log(
        self,
        table: str,
        *,
        columns: Sequence[str],
        snapshot: int | None = None,
        since: int = 0,
        until: int | None = None,
        in_order: bool = False,
        rows_per_batch: int = 65_536,
    ) -> pa.RecordBatchReader:
        """See ``Lake.log``."""
        stored = self._sealed(table, snapshot)
        chosen = list(columns)
        if stored is not None and not stored.knows(chosen):
            raise _no_such(table, next(name for name in chosen if name not in stored.clear.names))
        reader = self._inner.log(
            table,
            columns=chosen if stored is None else stored.needed(chosen),
            snapshot=snapshot,
            since=since,
            until=until,
            in_order=in_order,
            rows_per_batch=rows_per_batch,
        )
        if stored is None:
            return reader
        position = reader.schema.field(0)
        fields = [stored.clear.field(name) for name in chosen]
        schema = pa.schema([position, *fields])
        return self._flowing(table, reader, [position.name, *chosen], schema)

    def query(
        self,
        sql: str,
        *,
        inputs: Mapping[str, pa.Table] | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        stand_ins: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """See ``Lake.query``; each table with personal columns that it reads is opened whole."""
        given = dict(stand_ins or {})
        used = self._inner.reads(sql, inputs=tuple(inputs or ()))
        if RULES in used:
            raise QueryRefused(
                f"The query was refused: there is no lake table {RULES!r}.",
                hint="The rules of personal columns are not read by queries.",
            )
        at = snapshot
        for table in sorted(used - given.keys()):
            if self._sealed(table, snapshot) is None:
                continue
            at = self._inner.latest() if at is None else at  # all tables as of one moment
            rows = self._inner.scan(table, snapshot=at)
            given[table] = opened_rows(table, rows, None, self._keys)
        return self._inner.query(
            sql, inputs=inputs, snapshot=at, parameters=parameters, stand_ins=given
        )

    def reads(self, sql: str, *, inputs: Collection[str] = ()) -> set[str]:
        """See ``StandInLake.reads``."""
        return self._inner.reads(sql, inputs=inputs)

    def schema(self, table: str, snapshot: int | None = None) -> pa.Schema:
        """See ``Lake.schema``."""
        return clear_schema(self._inner.schema(self._open_to_all(table), snapshot))

    def info(self, table: str, snapshot: int | None = None) -> TableInfo:
        """See ``Lake.info``."""
        found = self._inner.info(self._open_to_all(table), snapshot)
        shown: list[Column] = [one for one in found.columns if not one.name.startswith(HIDDEN)]
        return found.model_copy(update={"columns": tuple(shown)})

    def tables(self, snapshot: int | None = None) -> list[str]:
        """See ``Lake.tables``."""
        return [table for table in self._inner.tables(snapshot) if table != RULES]

    def exists(self, table: str) -> bool:
        """See ``Lake.exists``."""
        return table != RULES and self._inner.exists(table)

    # -- as it is ------------------------------------------------------------------------

    def extent(
        self, table: str, snapshot: int | None = None, *, before: int | None = None
    ) -> Extent:
        """See ``Lake.extent``."""
        return self._inner.extent(table, snapshot, before=before)

    def written(self, key: str) -> Snapshot | None:
        """See ``Lake.written``."""
        return self._inner.written(key)

    def count(self, table: str, snapshot: int | None = None) -> int:
        """See ``Lake.count``."""
        return self._inner.count(self._open_to_all(table), snapshot)

    def snapshots(self, table: str | None = None) -> list[Snapshot]:
        """See ``Lake.snapshots``."""
        return self._inner.snapshots(table)

    def latest(self) -> int:
        """See ``Lake.latest``."""
        return self._inner.latest()

    def compact(self) -> Compaction:
        """See ``Lake.compact``."""
        return self._inner.compact()

    def expire(self, *, older_than: datetime, grace_seconds: float = 3600.0) -> Compaction:
        """See ``Lake.expire``."""
        return self._inner.expire(older_than=older_than, grace_seconds=grace_seconds)

    def close(self) -> None:
        """See ``Lake.close``."""
        self._inner.close()

    # -- about subjects ------------------------------------------------------------------

    def sealed_tables(self) -> list[str]:
        """The tables that hold rows about subjects."""
        return [table for table in self.tables() if self._sealed(table, None) is not None]

    def count_rows(self, key: SubjectKey) -> dict[str, int]:
        """How many rows there are about a subject, by table, without zeros."""
        found = {}
        for table in self.sealed_tables():
            stored = self._sealed(table, None)
            names = [layout.name for layout in stored.layouts] if stored is not None else []
            where = " OR ".join(f'"{name}".subject = $of' for name in names)
            rows = self._inner.scan(
                table, columns=names[:1], where=where, parameters={"of": key.pseudonym}
            )
            if rows.num_rows:
                found[table] = rows.num_rows
        return found

    def n_erased(self, table: str, snapshot: int | None = None) -> int:
        """How many subjects in a table's rows have been erased since; 0 if it has none."""
        stored = self._sealed(table, snapshot)
        if stored is None:
            return 0
        names = [layout.name for layout in stored.layouts]
        n = 0
        seen: set[int] = set()
        for batch in self._inner.batches(table, columns=names, snapshot=snapshot):
            new = sorted(pseudonyms_of(pa.Table.from_batches([batch])) - seen)
            seen.update(new)
            n += sum(key is None for key in self._keys.by_pseudonym(new))
        return n

    def n_erasures(self) -> int:
        """See ``PersonalRules.n_erasures``."""
        done = self._keys.destroyed(after=self._counted)
        if done:
            self._counted = done[-1].sequence
        return self._counted

    def n_in_clear(self, table: str) -> int:
        """How many rows of a table with a rule stand as they were before the rule."""
        rule = self.rule(table)
        if rule is None or not self.exists(table):
            return 0
        clear = self._inner.schema(table)
        personal = [name for group in rule.groups for name in group.sealed if name in clear.names]
        if not personal:
            return 0
        said = " OR ".join(f'"{name}" IS NOT NULL' for name in personal)
        return int(self._inner.scan(table, columns=personal[:1], where=said).num_rows)

    # -- the machinery -------------------------------------------------------------------

    def _keys_for_rows(self, since: int | None) -> KeysFor:
        """Gives the keys of subjects whom rows name that are to be written: made where there
        are none, but not behind an erasure that came while the rows were in memory."""

        def of(subjects: Sequence[Subject]) -> list[SubjectKey | None]:
            found = self._keys.of(subjects, make=False)
            if None not in found:
                return found
            if since is not None:
                refuse_erased_since(self, since)
            return self._keys.of(subjects, make=True)

        return of

    def _open_to_all(self, table: str) -> str:
        if table == RULES:
            raise NotFound(
                f"The lake has no table {table!r}.", hint="The lake keeps that name for itself."
            )
        return table_name(table)

    def _stored(self, table: str) -> pa.Schema | None:
        try:
            return self._inner.schema(table)
        except NotFound:
            return None

    def _sealed(self, table: str, snapshot: int | None) -> Stored | None:
        """What a read needs to know of a table; None if it has no sealed rows."""
        schema = self._inner.schema(self._open_to_all(table), snapshot)
        return Stored(table, schema) if layouts_of(schema) else None

    def _flowing(
        self, table: str, reader: pa.RecordBatchReader, columns: list[str], schema: pa.Schema
    ) -> pa.RecordBatchReader:
        def flow() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                opened = opened_rows(table, pa.Table.from_batches([batch]), columns, self._keys)
                yield from opened.combine_chunks().to_batches()

        return pa.RecordBatchReader.from_batches(schema, flow())


def _latest(layouts: Sequence[Layout]) -> tuple[Any, ...]:
    """The groups of the newest layout of each subject column."""
    return tuple({layout.columns[0]: layout.group() for layout in layouts}.values())


def _fitting(rule: PersonalRule, rows: pa.Table) -> PersonalRule:
    """The rule over the columns that these rows have; raises if a subject's column is missing."""
    spelled = {name.lower(): name for name in rows.column_names}
    for group in rule.groups:
        for name in group.sealed:
            if spelled.get(name.lower(), name) != name:
                raise SchemaMismatch(
                    f"The column {spelled[name.lower()]!r} of {rule.table!r} is {name!r} in the"
                    " table's personal rule.",
                    hint="Spell it in one way; nothing was written.",
                )
        if group.subject not in rows.column_names:
            raise SchemaMismatch(
                f"The rows for {rule.table!r} lack the column {group.subject!r}, which names"
                " their subjects.",
                hint="Give it (null where there is none), or change the table's rule first.",
            )
    kept = rule.of_columns(rows.column_names)
    assert kept is not None  # noqa: S101 - its subjects are there
    return kept


def _select(
    table: str,
    columns: Sequence[str] | None,
    where: str | None,
    order_by: Sequence[str] | None,
    limit: int | None,
) -> str:
    def quoted(names: Sequence[str]) -> str:
        return ", ".join('"' + name.replace('"', '""') + '"' for name in names)

    sql = f'SELECT {"*" if columns is None else quoted(columns)} FROM "{table}"'
    if where is not None:
        sql += f" WHERE ({where}\n)"
    if order_by:
        sql += f" ORDER BY {quoted(order_by)}"
    return sql if limit is None else f"{sql} LIMIT {int(limit)}"


def _no_such(table: str, column: str) -> InvalidInput:
    return InvalidInput(
        f"The table {table!r} has no column {column!r}.", hint="`falaj tables get` shows all."
    )


__all__ = ["RULES", "SubjectLake"]
