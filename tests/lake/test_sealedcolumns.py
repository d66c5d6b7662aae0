"""A lake that seals what is personal: as the plain one for whoever has keys, and else mute."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.errors import Conflict, Corrupt, InvalidInput, NotFound
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.filters import condition
from falaj.lake.model import QueryRefused, SchemaMismatch
from falaj.lake.personal import (
    ErasedWhileCopied,
    PersonalGroup,
    PersonalRule,
    SubjectsErased,
    n_erasures,
    record_rule,
    refuse_erased,
    rule_of,
    rule_of_query,
)
from falaj.lake.reading import GuardedLake
from falaj.lake.sealedcolumns import RULES, SubjectLake
from falaj.lake.sealedrows import HIDDEN, NOBODY, Layout, opened_rows, pseudonyms_of
from falaj.lake.sealing import Sealing
from falaj.lake.sight import Filtered, Sight
from falaj.testing.lake import LakeSuite
from falaj.testing.scanning import files_with
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable
from falaj.trust.subjectkeys import StoredKeys
from falaj.trust.subjects import Subject

AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sealed")


@pytest.fixture(scope="module")
def plain(place):
    lake = DuckLake.in_folder(place / "lake", threads=1, memory="1GB")
    yield lake
    lake.close()


@pytest.fixture(scope="module")
def keys(place):
    seal = MachineSeal.create(place / "s")
    ring = FileKeyring.create(place / "ring", seal, clock=SetClock(AT))
    opened = StoredKeys(SqliteKeyTable(place / "subjects"), ring, SetClock(AT))
    yield opened
    opened.close()


@pytest.fixture
def lake(plain, keys):
    return SubjectLake(plain, keys)


class Everybodys(SubjectLake):
    """Seals the tables of the suite, whatever is recorded."""

    def _rules(self, tables):
        groups = (PersonalGroup(subject="n", columns=("name", "age")),)
        sealed = {"people", "a", "b", "new"}
        return {t: PersonalRule(table=t, groups=groups) for t in tables if t in sealed}


class TestSubjectLake(LakeSuite):
    @pytest.fixture
    def lake(self, plain, keys):
        def work(cursor):
            for table in plain.tables():
                cursor.execute(f"DROP TABLE lake.{table}")
            cursor.execute("DELETE FROM lake._falaj_writes")

        plain._write(work, [], None)
        return Everybodys(plain, keys)


def rule(table, subject="who", columns=("name", "age"), kind="person"):
    return PersonalRule(
        table=table, groups=(PersonalGroup(subject=subject, kind=kind, columns=columns),)
    )


def people(*rows):
    """Rows of (who, name, age, city)."""
    whos, names, ages, cities = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "who": pa.array(whos, pa.int64()),
            "name": pa.array(names, pa.string()),
            "age": pa.array(ages, pa.int32()),
            "city": pa.array(cities, pa.string()),
        }
    )


ADA, BO, CY = (1, "Ada Lovelace-XQZJ", 36, "AUH"), (2, "Bo", 20, "DXB"), (3, "Cy", None, "AUH")


NUMBERS = itertools.count()


@pytest.fixture
def table():
    return f"people_{next(NUMBERS)}"


@pytest.fixture
def filled(lake, table):
    record_rule(lake, rule(table))
    lake.append(table, people(ADA, BO, CY))
    return table


def rows(lake, table, **asked):
    return lake.scan(table, order_by=["city", "age"], **asked).to_pylist()


# -- for whoever has keys ----------------------------------------------------------------

KINDS = {
    "b": (pa.bool_(), st.booleans()),
    "i8": (pa.int8(), st.integers(-128, 127)),
    "i64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "f32": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "f64": (pa.float64(), st.floats(allow_nan=False)),
    "text": (pa.string(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    "raw": (pa.binary(), st.binary()),
    "day": (pa.date32(), st.dates(date(1, 1, 1), date(9999, 12, 30))),
    "clock": (pa.time64("us"), st.times()),
    "at": (
        pa.timestamp("us", tz="UTC"),
        st.datetimes(datetime(1900, 1, 1), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
    ),
    "money": (pa.decimal128(18, 4), st.decimals(-(10**9), 10**9, places=4)),
    "many": (pa.list_(pa.int64()), st.lists(st.none() | st.integers(-9, 9), max_size=3)),
    "dates": (pa.list_(pa.date32()), st.lists(st.dates(date(1, 1, 1)), max_size=2)),
    "pair": (
        pa.struct([("x", pa.float64()), ("y", pa.decimal128(9, 2)), ("z", pa.time64("us"))]),
        st.fixed_dictionaries(
            {
                "x": st.floats(allow_nan=False),
                "y": st.decimals(0, 9, places=2) | st.none(),
                "z": st.times(),
            }
        ),
    ),
}


@st.composite
def tables(draw):
    n = draw(st.integers(0, 6))
    columns = {
        "who": pa.array(draw(st.lists(st.none() | st.integers(1, 3), min_size=n, max_size=n))),
        "place": pa.array(range(n), pa.int64()),
    }
    columns["who"] = columns["who"].cast(pa.int64())
    for name, (kind, values) in KINDS.items():
        drawn = draw(st.lists(st.none() | values, min_size=n, max_size=n))
        columns[name] = pa.array(drawn, kind)
    personal = draw(st.lists(st.sampled_from(sorted(KINDS)), unique=True))
    return pa.table(columns), tuple(personal)


ASKED = (
    {},
    {"columns": ["text", "who", "place"], "limit": 2},
    {"where": "who = $one", "parameters": {"one": 1}},
    {"where": "place > 1"},
    {"where": "i64 > 0 OR text <> '' OR many IS NULL", "columns": ["place"]},
    {"where": "place IN (SELECT who FROM {table})", "columns": ["f64"]},
)


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(drawn=tables())
def test_whoever_has_keys_reads_what_a_plain_lake_would_give(plain, keys, drawn):
    given_rows, personal = drawn
    lake = SubjectLake(plain, keys)
    record_rule(lake, rule("sealed", columns=personal))
    lake.replace("sealed", given_rows)
    plain.replace("clear", given_rows)
    assert lake.schema("sealed").equals(plain.schema("clear"))
    for asked in ASKED:
        there, here = (
            one.scan(
                name,
                order_by=["place"],
                **{**asked, **_named(asked, name)},
            )
            for one, name in ((lake, "sealed"), (plain, "clear"))
        )
        assert there.schema.equals(here.schema)
        assert there.to_pylist() == here.to_pylist(), asked
    sql = 'SELECT who, count(*) AS n, max(text) AS t, min("at") AS a FROM {} GROUP BY 1 ORDER BY 1'
    asked = [one.query(sql.format(name)) for one, name in ((lake, "sealed"), (plain, "clear"))]
    assert asked[0].equals(asked[1])
    named = ["place", *personal]
    logged = [
        pa.Table.from_batches(list(reader), reader.schema).drop_columns(["rowid"])
        for reader in (
            one.log(name, columns=named, in_order=True, rows_per_batch=2)
            for one, name in ((lake, "sealed"), (plain, "clear"))
        )
    ]
    assert logged[0].equals(logged[1])


def _named(asked, name):
    return {"where": asked["where"].format(table=name)} if "where" in asked else {}


def test_conditions_and_orders_over_personal_columns_are_worked_out_on_opened_rows(lake, filled):
    found = lake.scan(filled, where="name LIKE $x", parameters={"x": "B%"}, columns=["city"])
    assert found.to_pylist() == [{"city": "DXB"}]
    ordered = lake.scan(filled, order_by=["name"], limit=2, columns=["name"])
    assert ordered["name"].to_pylist() == ["Ada Lovelace-XQZJ", "Bo"]
    whole = lake.scan(filled, where=f"{filled}::VARCHAR LIKE '%XQZJ%'", columns=["who"])
    assert whole["who"].to_pylist() == [1]
    batches = lake.batches(filled, order_by=["age"], columns=["age"], rows_per_batch=1)
    assert pa.Table.from_batches(list(batches))["age"].to_pylist() == [20, 36, None]
    with pytest.raises(InvalidInput):
        lake.scan(filled, columns=[next(n for n in stored(lake, filled) if HIDDEN in n)])


def stored(lake, table):
    return lake._inner.schema(table).names


# -- as it stands in files ---------------------------------------------------------------


def test_what_is_stored_says_nothing_personal_not_even_in_the_catalogue(lake, plain, place, filled):
    seen = plain.scan(filled).to_pylist()
    assert all(row["who"] is row["name"] is row["age"] is None for row in seen)
    assert {row["city"] for row in seen} == {"AUH", "DXB"}
    plain.append("in_clear", pa.table({"name": ["Ada Clearly-XQZJ"]}))
    assert files_with(place / "lake", b"Ada Clearly-XQZJ"), "the catalogue tells extremes"
    assert files_with(place / "lake", b"Ada Lovelace-XQZJ") == []
    assert all(HIDDEN not in column.name for column in lake.info(filled).columns)
    assert RULES not in lake.tables()
    assert not lake.exists(RULES)
    with pytest.raises(NotFound):
        lake.scan(RULES)
    with pytest.raises(NotFound):
        lake.append(RULES, people(BO))
    with pytest.raises(QueryRefused):
        lake.query(f"SELECT * FROM {RULES}")


def test_after_destruction_what_was_personal_is_null_at_every_snapshot(lake, keys, filled):
    first = lake.latest()
    lake.append(filled, people((1, "Ada again", 37, "SHJ")))
    (key,) = keys.of([Subject("person", "1")], make=False)
    assert lake.count_rows(key)[filled] == 2
    assert lake.n_erased(filled) == 0
    keys.destroy(key.subject)
    gone = {"who": None, "name": None, "age": None}
    kept = [
        {"who": 3, "name": "Cy", "age": None, "city": "AUH"},
        {**gone, "city": "AUH"},
        {"who": 2, "name": "Bo", "age": 20, "city": "DXB"},
    ]
    assert sorted(map(str, rows(lake, filled, snapshot=first))) == sorted(map(str, kept))
    assert {**gone, "city": "SHJ"} in rows(lake, filled)
    lake.compact()
    assert sorted(map(str, rows(lake, filled, snapshot=first))) == sorted(map(str, kept))
    assert lake.scan(filled, where="name LIKE 'Ada%'").num_rows == 0
    assert lake.n_erased(filled) == 1
    with pytest.raises(SubjectsErased, match="set ts_1 holds rows about 1 subject"):
        refuse_erased(lake, "set ts_1", [(filled, None)])
    lake.append(filled, people((1, "Ada anew", 1, "RAK")))
    assert lake.scan(filled, where="who = 1")["name"].to_pylist() == ["Ada anew"]


def test_rows_without_a_subject_belong_to_nobody_of_their_table(lake, plain, keys, table):
    record_rule(lake, rule(table))
    lake.append(table, people((None, "No One", 5, "AUH"), (None, None, None, "DXB"), BO))
    assert plain.scan(table)["name"].to_pylist() == [None] * 3
    assert lake.scan(table, where="age = 5")["name"].to_pylist() == ["No One"]
    assert keys.destroy(Subject(NOBODY, table)) is not None
    assert lake.scan(table, order_by=["age"])["name"].to_pylist() == ["Bo", None, None]


def test_a_cell_in_another_place_is_not_believed(lake, plain, filled):
    hidden = next(name for name in stored(lake, filled) if name.startswith(HIDDEN))
    moved = plain.scan(filled)
    plain.append("elsewhere", moved)
    with pytest.raises(Corrupt, match="elsewhere"):
        lake.scan("elsewhere")
    cells = moved[hidden].combine_chunks()
    fields = [cells.field(place) for place in range(3)]
    swapped = pa.StructArray.from_arrays(
        [pa.concat_arrays([fields[0][1:], fields[0][:1]]), *fields[1:]],
        fields=list(cells.type),
    )
    place = moved.schema.get_field_index(hidden)
    plain.replace(filled, moved.set_column(place, hidden, swapped))
    with pytest.raises(Corrupt):
        lake.scan(filled)


# -- writing -----------------------------------------------------------------------------


def test_a_write_that_was_done_before_makes_no_keys(lake, keys, table):
    record_rule(lake, rule(table))
    first = lake.append(table, people((77, "Once", 1, "AUH")), key=f"{table}/1")
    keys.destroy(Subject("person", "77"))
    assert lake.append(table, people((77, "Once", 1, "AUH")), key=f"{table}/1").id == first.id
    assert keys.of([Subject("person", "77")], make=False) == [None]
    assert lake.count(table) == 1


def test_rows_that_were_read_before_an_erasure_make_nobody_a_new_key(lake, plain, keys, table):
    record_rule(lake, rule(table, kind=f"kind_{table}"))
    subjects = [Subject(f"kind_{table}", str(n)) for n in (1, 2)]
    lake.append(table, people(ADA, BO))
    since = n_erasures(lake)
    rows = lake.scan(table)
    keys.destroy(subjects[0])
    with pytest.raises(ErasedWhileCopied):
        lake.append(table, rows, since=since)
    with pytest.raises(ErasedWhileCopied):
        lake.append_many({table: rows}, since=since)
    assert lake.count(table) == 2
    assert keys.of(subjects, make=False)[0] is None
    lake.append(table, rows.slice(1), since=since)  # whoever has a key was not erased
    lake.append(table, lake.scan(table), since=n_erasures(lake))
    assert keys.of(subjects, make=False)[0] is None
    lake.append(table, rows.slice(0, 1))  # from outside: the person came back
    assert keys.of(subjects, make=False)[0] is not None


def test_once_erasures_are_counted_no_key_that_is_gone_is_remembered(place, table):
    seal, clock = MachineSeal.create(place / f"s_{table}"), SetClock(AT)
    ring = FileKeyring.create(place / f"ring_{table}", seal, clock=clock)
    here, there = (
        StoredKeys(SqliteKeyTable(place / f"keys_{table}"), ring, clock, ticks=lambda: 0.0)
        for _ in range(2)
    )
    (key,) = there.of([Subject("person", "1")], make=True)
    assert here.by_pseudonym([key.pseudonym]) == [key]
    there.destroy(key.subject)
    assert [one.pseudonym for one in here.destroyed()] == [key.pseudonym]
    assert here.by_pseudonym([key.pseudonym]) == [None]
    here.close()
    there.close()


def test_cells_of_more_than_two_gibibytes_are_looked_through_in_pieces(table):
    layout = Layout("person", ("who", "name"))
    cells = pa.array([b"x" * (1 << 26)], pa.binary())
    inner = pa.nulls(1, layout.type.field("layout").type)
    piece = pa.StructArray.from_arrays(
        [pa.array([7], pa.int64()), cells, inner], fields=list(layout.type)
    )
    n = 33  # times 64 MiB; all of them are the same memory
    stored = pa.table(
        {
            "name": pa.nulls(n, pa.string()),
            layout.name: pa.chunked_array([piece] * n),
        }
    )
    assert pseudonyms_of(stored) == {7}
    opened = opened_rows(table, stored, ["name"], MemorySubjectKeys())  # who was erased
    assert opened["name"].to_pylist() == [None] * n


def test_rows_are_opened_in_pieces_in_their_order(lake, plain, table, monkeypatch):
    monkeypatch.setattr("falaj.lake.sealedrows._AT_ONCE", 2)
    plain.append(table, people((0, "Old", 1, "AUH")))
    record_rule(lake, rule(table))
    lake.append(table, people(*[(n, f"name {n}", n, "AUH") for n in range(1, 6)]))
    assert lake.scan(table, order_by=["age"])["name"].to_pylist() == [
        "Old",
        *(f"name {n}" for n in range(1, 6)),
    ]
    assert lake.scan(table, where="false").schema.names == ["who", "name", "age", "city"]


def test_the_rows_that_a_caller_sees_are_counted_without_opening_a_cell(
    lake, keys, filled, monkeypatch
):
    class Sights:
        def of(self, call, table, action="tables.read"):
            return Sight(table, {}, (Filtered("own", condition("city = 'AUH'")),), bytes)

    def refuse(*_):
        raise AssertionError("a cell was opened")

    monkeypatch.setattr(keys, "by_pseudonym", refuse)
    call = SimpleNamespace(caller=Caller(Principal("user:amina", PrincipalKind.USER)))
    assert GuardedLake(lake, Sights()).count(call, filled) == 2


def test_columns_come_and_types_widen_as_in_a_plain_lake(lake, table):
    record_rule(lake, rule(table, columns=("name", "age", "mail")))
    lake.append(table, people(BO))
    narrow = people(ADA).set_column(2, "age", pa.array([36], pa.int16()))
    wide = narrow.append_column("mail", pa.array(["ada@example.org"]))
    with pytest.raises(SchemaMismatch, match="no column 'mail'"):
        lake.append(table, wide)
    with pytest.raises(SchemaMismatch, match=r"'age'.*int32, not string"):
        lake.append(table, people(BO).set_column(2, "age", pa.array(["20"])))
    lake.append(table, wide, add_columns=True)
    found = lake.scan(table, order_by=["who"])
    assert found["mail"].to_pylist() == ["ada@example.org", None]
    assert found.schema.field("age").type == pa.int32()
    with pytest.raises(SchemaMismatch, match="lack the column 'mail'"):
        lake.append(table, people(BO))


def test_rows_that_leave_out_or_misspell_their_subject_are_refused(lake, table):
    record_rule(lake, rule(table))
    with pytest.raises(SchemaMismatch, match="lack the column 'who'"):
        lake.append(table, people(BO).drop_columns(["who"]))
    with pytest.raises(SchemaMismatch, match="'Name'"):
        lake.append(table, people(BO).rename_columns(["who", "Name", "age", "city"]))
    with pytest.raises(SchemaMismatch, match="keeps for itself"):
        lake.append(table, people(BO).append_column(f"{HIDDEN}x", pa.array([1])))
    with pytest.raises(InvalidInput, match="double"):
        lake.append(table, people(BO).set_column(0, "who", pa.array([0.5])))
    assert not lake.exists(table)


def test_a_replacement_is_sealed_and_so_are_rows_whose_rule_was_lost(lake, plain, filled):
    lake.replace(filled, people(BO))
    lake.replace_in_batches(filled, lambda: [people(ADA), people(CY)])
    assert lake.scan(filled, order_by=["who"])["name"].to_pylist() == ["Ada Lovelace-XQZJ", "Cy"]
    plain.replace(RULES, plain.scan(RULES).slice(0, 0))
    forgetful = SubjectLake(plain, lake._keys)
    assert rule_of(forgetful, filled) is None
    forgetful.append(filled, people(BO))
    assert plain.scan(filled)["name"].to_pylist() == [None] * 3
    forgetful.replace(filled, people(BO))
    assert plain.scan(filled)["name"].to_pylist() == [None]


def test_two_subjects_of_a_row_each_own_their_columns(lake, keys, table):
    groups = (
        PersonalGroup(subject="who", columns=("name",)),
        PersonalGroup(subject="city", kind="town", columns=("age",)),
    )
    record_rule(lake, PersonalRule(table=table, groups=groups))
    lake.append(table, people(ADA, BO))
    keys.destroy(Subject("town", "DXB"))
    assert lake.scan(table, order_by=["who"]).to_pylist() == [
        {"who": 1, "name": "Ada Lovelace-XQZJ", "age": 36, "city": "AUH"},
        {"who": 2, "name": "Bo", "age": None, "city": None},
    ]


def test_rows_from_before_a_rule_stay_readable_and_are_sealed_when_asked(lake, plain, table):
    lake.append(table, people(ADA, BO))
    before = lake.latest()
    with pytest.raises(Conflict, match="no personal rule"):
        Sealing(lake, SystemClock()).seal(table, expire_snapshots=False)
    record_rule(lake, rule(table))
    lake.append(table, people(CY))
    assert lake.n_in_clear(table) == 2
    assert lake.scan(table, order_by=["who"])["name"].to_pylist()[1:] == ["Bo", "Cy"]
    done = Sealing(lake, SystemClock()).seal(table, expire_snapshots=False)
    assert (done.n_rows, lake.n_in_clear(table)) == (3, 0)
    assert plain.scan(table)["name"].to_pylist() == [None] * 3
    assert lake.scan(table, order_by=["who"])["name"].to_pylist()[1:] == ["Bo", "Cy"]
    assert plain.scan(table, snapshot=before)["name"].to_pylist()[1:] == ["Bo"]
    later = datetime.now(UTC) + timedelta(days=1)
    lake.expire(older_than=later, grace_seconds=-60)
    with pytest.raises(NotFound):
        plain.scan(table, snapshot=before)


def test_a_query_over_sealed_and_plain_tables_sees_one_moment(lake, filled, table):
    lake.append(f"{table}_towns", pa.table({"city": ["AUH", "DXB"], "emirate": ["A", "D"]}))
    before = lake.latest()
    sql = (
        f"SELECT p.name, t.emirate FROM {filled} p JOIN {table}_towns t USING (city)"
        " WHERE p.age < $most ORDER BY 1"
    )
    lake.append(filled, people((9, "Zed", 1, "DXB")))
    asked = lake.query(sql, parameters={"most": 30}, snapshot=before)
    assert asked.to_pylist() == [{"name": "Bo", "emirate": "D"}]
    assert lake.query(sql, parameters={"most": 30})["name"].to_pylist() == ["Bo", "Zed"]
    with pytest.raises(InvalidInput, match="name of a lake table"):
        lake.query("SELECT 1", inputs={filled: people(BO)})


def test_the_answer_of_a_query_inherits_the_rules_of_what_it_reads(lake, filled):
    sql = f"SELECT who, upper(name) AS shouted, city FROM {filled}"
    found = rule_of_query(lake, sql, "answer", ["who", "shouted", "city"])
    assert found is not None
    assert found.groups == (PersonalGroup(subject="who", columns=("shouted",)),)
    assert rule_of_query(lake, f"SELECT city FROM {filled}", "answer", ["city"]) is None
    with pytest.raises(InvalidInput, match="leaves out whom"):
        rule_of_query(lake, f"SELECT name AS x FROM {filled}", "answer", ["x"])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT city, to_json(p) AS x FROM {} p",
        "SELECT a AS x, d AS city FROM {} AS p(a, b, c, d)",
        "SELECT #2 AS x, city FROM {}",
        "SELECT unnest(p) FROM {} p",
        "SELECT name AS who, city FROM {}",
        "SELECT who + 1 AS who, name AS x FROM {}",
        "SELECT who, x FROM (SELECT city AS who, name AS x FROM {})",
        "SELECT p.who, q.name AS x FROM {} p, {} q",
    ],
)
def test_no_way_of_saying_it_leaves_a_personal_column_of_an_answer_in_clear(lake, filled, sql):
    sql = sql.replace("{}", filled)
    names = lake.query(sql).column_names
    with pytest.raises(InvalidInput, match="leaves out whom"):
        rule_of_query(lake, sql, "answer", names)


def test_a_subject_that_stands_in_the_answer_as_it_is_seals_what_may_be_personal(
    lake, filled, table
):
    lake.append(f"{table}_b", pa.table({"who": pa.array([1], pa.int64()), "spent": [2.5]}))
    for sql, sealed in {
        f"SELECT who, to_json(p) AS x, city FROM {filled} p": ("x",),
        f"SELECT p.* FROM {filled} p": ("name", "age"),
        f"SELECT who, name, spent FROM {filled} JOIN {table}_b USING (who)": ("name",),
        f"SELECT p.who, name, b.spent FROM {filled} p JOIN {table}_b b ON p.who = b.who": ("name",),
        f"SELECT who, #1 AS again, city FROM {filled}": ("again",),
    }.items():
        found = rule_of_query(lake, sql, "answer", lake.query(sql).column_names)
        assert found.groups == (PersonalGroup(subject="who", columns=sealed),), sql
    sql = f"SELECT b.who, p.name FROM {filled} p, {table}_b b"
    with pytest.raises(InvalidInput, match="leaves out whom"):
        rule_of_query(lake, sql, "answer", ["who", "name"])


def test_a_looser_rule_of_another_worker_takes_no_column_out_of_the_cells(plain, keys, table):
    one, other = SubjectLake(plain, keys), SubjectLake(plain, keys)
    record_rule(one, rule(table))
    record_rule(other, rule(table, columns=("name",)))
    record_rule(one, rule(table, columns=("name",)))
    assert rule_of(one, table) == rule(table)
    one.append(table, people(ADA))
    assert plain.scan(table)["age"].to_pylist() == [None]
    record_rule(other, rule(table, columns=("city", "name")))
    assert rule_of(one, table) == rule(table, columns=("name", "age", "city"))
    record_rule(one, rule(table, columns=("name",), kind="guest"))
    assert rule_of(other, table) == rule(table, columns=("name",), kind="guest")
    record_rule(other, rule(table))  # what another worker says once more is heard again
    assert rule_of(one, table) == rule(table)


def test_a_plain_lake_refuses_to_take_personal_rows(plain):
    with pytest.raises(InvalidInput, match="does not seal"):
        record_rule(plain, rule("t"))


def test_a_rule_seals_no_column_twice():
    with pytest.raises(ValueError, match="'who'"):
        rule("t", columns=("who",))


def test_values_of_every_kind_keep_their_extremes(lake, table):
    extremes = pa.table(
        {
            "who": pa.array(["x", "x"]),
            "at": pa.array([-(2**62), 2**62], pa.timestamp("us", tz="UTC")),
            "nan": pa.array([float("nan"), float("-inf")]),
            "money": pa.array([Decimal("-99999999999999.9999"), None], pa.decimal128(18, 4)),
            "clock": pa.array([time(0), time(23, 59, 59, 999999)], pa.time64("us")),
        }
    )
    record_rule(lake, rule(table, columns=("at", "nan", "money", "clock")))
    lake.append(table, extremes)
    found = lake.scan(table)
    assert found["at"].cast(pa.int64()).to_pylist() == [-(2**62), 2**62]
    assert str(found["nan"].to_pylist()) == "[nan, -inf]"
    assert (
        found.select(["money", "clock"]).to_pylist()
        == extremes.select(["money", "clock"]).to_pylist()
    )
