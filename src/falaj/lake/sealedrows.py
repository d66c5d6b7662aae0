"""Rows about data subjects as they stand in files: one sealed cell for each row and subject.

A table with personal columns keeps all its columns and their types; the personal ones hold
nulls. For each subject of a row one more column is hidden behind them::

    _sealed_<12 hex>: struct<subject: int64, cell: binary, layout: struct<KIND: struct<COLUMN…>>>

``subject`` is the pseudonym, random, so that what the catalogue knows of the column says
nothing. ``cell`` is ``nonce (12) | AES-256-GCM`` of the personal values of the row under the
subject's key, bound to the table, the hidden column and the pseudonym. ``layout`` is always
null: its type names the kind and the columns in the cell, so that each snapshot tells by
itself how it is read. A row without a subject belongs to *nobody of this table*, who has a
key too: personal values stand in clear nowhere, and can be erased all together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.lake.cells import packed, restored, unpacked
from falaj.lake.model import SchemaMismatch
from falaj.lake.personal import PersonalGroup, PersonalRule
from falaj.trust.subjects import Subject, SubjectKey, SubjectKeys

HIDDEN = "_sealed_"
NOBODY = "nobody"
"""The kind of whom rows without a subject belong to; the name is the table's."""
KeysFor = Callable[[Sequence[Subject]], Sequence[SubjectKey | None]]
"""Gives the keys under which rows about subjects are sealed, in order."""
_NONCE = 12
_AT_ONCE = 65_536
"""Rows that are opened together."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is in the cells of a hidden column."""

    kind: str
    columns: tuple[str, ...]
    """The subject's column first."""

    @classmethod
    def of(cls, group: PersonalGroup) -> Layout:
        """The layout of a rule's group."""
        return cls(group.kind, group.sealed)

    @property
    def name(self) -> str:
        """The hidden column."""
        said = json.dumps([self.kind, *self.columns]).encode()
        return HIDDEN + hashlib.sha256(said).hexdigest()[:12]

    @property
    def type(self) -> pa.DataType:
        """The hidden column's type."""
        inner = pa.struct([(column, pa.bool_()) for column in self.columns])
        return pa.struct(
            [
                ("subject", pa.int64()),
                ("cell", pa.binary()),
                ("layout", pa.struct([(self.kind, inner)])),
            ]
        )

    def group(self) -> PersonalGroup:
        """As a rule says it."""
        return PersonalGroup(subject=self.columns[0], kind=self.kind, columns=self.columns[1:])

    def bound(self, table: str, pseudonym: int) -> bytes:
        """What a cell is authenticated with."""
        return f"{table}\0{self.name}\0".encode() + pseudonym.to_bytes(8, "big")


def layouts_of(schema: pa.Schema) -> list[Layout]:
    """The layouts of the hidden columns of a table as it is stored."""
    found = []
    for field in schema:
        if field.name.startswith(HIDDEN):
            kind = field.type.field("layout").type.field(0)
            found.append(Layout(kind.name, tuple(column.name for column in kind.type)))
    return found


def clear_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a table without the hidden ones: as whoever reads it sees it."""
    return pa.schema([field for field in schema if not field.name.startswith(HIDDEN)])


def without_hidden(table: str, rows: pa.Table) -> pa.Table:
    """The rows themselves; raises SchemaMismatch if a column has a name that is kept."""
    for name in rows.column_names:
        if name.lower().startswith(HIDDEN):
            raise SchemaMismatch(
                f"The column {name!r} of {table!r} has a name that the lake keeps for itself.",
                hint="Rename it.",
            )
    return rows


def sealed_rows(
    rows: pa.Table, rule: PersonalRule, keys: KeysFor, *, existing: Iterable[Layout] = ()
) -> pa.Table:
    """Rows as they are stored, each under its subject's key.

    Args:
        rows: with all columns of the rule, in types that a table can hold.
        keys: makes keys where there are none, or raises.
        existing: layouts that the table has besides; their hidden columns are null here.
    """
    groups = [Layout.of(group) for group in rule.groups]
    for layout in groups:
        hidden = _sealed(rule.table, rows, layout, keys)
        for column in layout.columns:
            place = rows.schema.get_field_index(column)
            nulls = pa.nulls(rows.num_rows, rows.schema.field(place).type)
            rows = rows.set_column(place, column, nulls)
        rows = rows.append_column(layout.name, hidden)
    for layout in existing:
        if layout not in groups:
            rows = rows.append_column(layout.name, pa.nulls(rows.num_rows, layout.type))
    return rows


def opened_rows(
    table: str, rows: pa.Table, columns: Sequence[str] | None, keys: SubjectKeys
) -> pa.Table:
    """Stored rows as they were written; of a destroyed subject the personal values are null.

    Args:
        columns: the wanted ones in their order, all that are in ``rows`` if None.

    Raises:
        Corrupt: a cell is not what was written there.
    """
    clear = clear_schema(rows.schema)
    wanted = clear.names if columns is None else list(columns)
    schema = pa.schema([clear.field(name) for name in wanted])
    if not rows.num_rows:
        return schema.empty_table()
    # In pieces: the cells of a table of any size do not fit into one array.
    pieces = (pa.Table.from_batches([one]) for one in rows.to_batches(max_chunksize=_AT_ONCE))
    return pa.concat_tables([_opened_piece(table, one, schema, keys) for one in pieces])


def pseudonyms_of(rows: pa.Table) -> set[int]:
    """The pseudonyms in the hidden columns of stored rows."""
    found: set[int] = set()
    for layout in layouts_of(rows.schema):
        for hidden in rows.column(layout.name).chunks:
            found |= set(pc.unique(pc.struct_field(hidden, "subject")).drop_null().to_pylist())
    return found


def _opened_piece(table: str, rows: pa.Table, schema: pa.Schema, keys: SubjectKeys) -> pa.Table:
    """Some stored rows as they were written: the columns of a schema."""
    wanted = schema.names
    result = {name: rows.column(name) for name in wanted}
    for layout in layouts_of(rows.schema):
        places = [place for place, name in enumerate(layout.columns) if name in result]
        if not places:
            continue
        hidden = rows.column(layout.name).combine_chunks()
        sealed = hidden.is_valid()
        values = _opened(table, hidden, layout, keys)
        for place in places:
            name = layout.columns[place]
            opened = restored(values[place], result[name].type)
            if sealed.true_count < len(sealed):  # rows from before the rule stand as they were
                opened = pc.if_else(sealed, opened, result[name].combine_chunks())
            result[name] = pa.chunked_array([opened], result[name].type)
    return pa.table(result, schema=schema)


def _sealed(table: str, rows: pa.Table, layout: Layout, keys: KeysFor) -> pa.Array:
    """The hidden column of rows: keys are looked up once for each subject."""
    columns = [rows.column(name) for name in layout.columns]
    names = _names(table, layout, columns[0])
    encoded = pc.dictionary_encode(names).combine_chunks()
    subjects = [Subject(layout.kind, name) for name in encoded.dictionary.to_pylist()]
    indices = encoded.indices.to_pylist()
    kept = [place for place, index in enumerate(indices) if index is not None]
    if len(kept) < len(indices):  # nobody's rows, unless there is nothing personal in them
        used = [index for index, said in enumerate(_says_something(columns)) if said]
        indices = [len(subjects) if index is None else index for index in indices]
        kept = sorted({*kept, *used})
        subjects.append(Subject(NOBODY, table))
    if not kept:
        return pa.nulls(rows.num_rows, layout.type)
    needed = sorted({indices[place] for place in kept})
    found = keys([subjects[index] for index in needed])
    made = {i: key for i, key in zip(needed, found, strict=True) if key is not None}
    under = {i: (AESGCM(k.secret), layout.bound(table, k.pseudonym)) for i, k in made.items()}
    nonces = os.urandom(_NONCE * len(kept))
    cells: list[bytes | None] = [None] * rows.num_rows
    owners: list[int | None] = [None] * rows.num_rows
    for number, (place, text) in enumerate(zip(kept, packed(columns, kept), strict=True)):
        cipher, bound = under[indices[place]]
        nonce = nonces[number * _NONCE : (number + 1) * _NONCE]
        cells[place] = nonce + cipher.encrypt(nonce, text, bound)
        owners[place] = made[indices[place]].pseudonym
    cell = pa.array(cells, pa.binary())
    inner = layout.type.field("layout").type
    return pa.StructArray.from_arrays(
        [pa.array(owners, pa.int64()), cell, pa.nulls(rows.num_rows, inner)],
        fields=list(layout.type),
        mask=cell.is_null(),
    )


def _names(table: str, layout: Layout, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    raise InvalidInput(
        f"The column {layout.columns[0]!r} of {table!r} names a subject and is {kind}.",
        hint="Name subjects by text or by integers.",
    )


def _says_something(columns: Sequence[pa.ChunkedArray]) -> list[bool]:
    known = [pc.is_valid(column) for column in columns]
    result = known[0]
    for one in known[1:]:
        result = pc.or_(result, one)
    return result.to_pylist()  # type: ignore[no-any-return]


def _opened(
    table: str, hidden: pa.StructArray, layout: Layout, keys: SubjectKeys
) -> list[list[object]]:
    owners = pc.struct_field(hidden, "subject")
    distinct = pc.unique(owners).drop_null().to_pylist()
    under = {
        key.pseudonym: (AESGCM(key.secret), layout.bound(table, key.pseudonym))
        for key in keys.by_pseudonym(distinct)
        if key is not None
    }
    texts: list[bytes | None] = []
    pairs = zip(owners.to_pylist(), pc.struct_field(hidden, "cell").to_pylist(), strict=True)
    try:
        for owner, cell in pairs:
            found = under.get(owner)
            if found is None or cell is None:
                texts.append(None)
                continue
            texts.append(found[0].decrypt(cell[:_NONCE], cell[_NONCE:], found[1]))
    except InvalidTag:
        raise Corrupt(
            f"A sealed cell of the table {table!r} is not what was written there.",
            hint="Restore the lake from a backup, and find out who changed its files.",
        ) from None
    return unpacked(texts, len(layout.columns))


__all__ = [
    "HIDDEN",
    "NOBODY",
    "KeysFor",
    "Layout",
    "clear_schema",
    "layouts_of",
    "opened_rows",
    "pseudonyms_of",
    "sealed_rows",
    "without_hidden",
]
