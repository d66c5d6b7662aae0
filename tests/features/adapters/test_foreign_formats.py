"""Delta and Iceberg tables that someone else writes: versions, order, deletes, confinement."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.adapters.foreign_delta import DeltaReader
from falaj.features.adapters.foreign_iceberg import IcebergReader
from falaj.features.foreign import ForeignChanged, ForeignUnreadable
from falaj.features.foreign_join import ForeignView
from falaj.features.model import Entity, Feature, FeatureView, Knowledge
from falaj.features.sources import ForeignTable
from falaj.features.views import ViewPlan
from falaj.ingest.files import Files
from falaj.ingest.model import SourceBroken

INSTANT = pa.timestamp("us", "UTC")
CARD = Entity(name="card", keys={"card": "int64"})
PLAN = ViewPlan.of(
    FeatureView(name="v", entity=CARD, source="events", event_time="at",
                features=[Feature("amount", "float64"), Feature("note", "string")]),
    CARD,
)  # fmt: skip


def rows(*given):
    cards, at, amounts = zip(*given, strict=True)
    return pa.table({
        "card": pa.array(cards, pa.int64()),
        "at": pa.array([t * 1_000_000 for t in at], pa.int64()).cast(INSTANT),
        "amount": pa.array(amounts, pa.float64()),
        "note": pa.array([f"note {a}" for a in amounts]),
    })  # fmt: skip


def amounts(opened, *asked, ordered_by=None):
    cards, at = zip(*asked, strict=True)
    found = ForeignView(PLAN, opened, ordered_by).features(
        ["amount"], [pa.array(cards)], np.array(at) * 1_000_000, Knowledge.RECORDED
    )
    return found["amount"].to_pylist()


# -- Delta -----------------------------------------------------------------------------------


@pytest.fixture
def delta(tmp_path):
    deltalake = pytest.importorskip("deltalake")

    def write(table, **values):
        values.setdefault("mode", "append")
        deltalake.write_deltalake(str(tmp_path / "events"), table, **values)

    return write


DELTA = ForeignTable(name="events", location="events", format="delta", ordered_by="at")


def test_a_delta_table_is_joined_at_its_newest_version_or_at_a_pinned_one(tmp_path, delta):
    delta(rows((1, 1, 1.0), (2, 2, 2.0)))
    reader = DeltaReader(Files([tmp_path]))
    first = reader.open(DELTA, None)
    delta(rows((1, 3, 3.0), (1, 3, 4.0)))
    second = reader.open(DELTA, None)
    assert first.pin != second.pin
    assert amounts(second, (1, 2), (1, 3), (3, 9), ordered_by="at") == [1.0, 4.0, None]
    assert amounts(reader.open(DELTA, first.pin), (1, 9), ordered_by="at") == [1.0]
    assert second.schema.names == ["card", "at", "amount", "note"]


def test_partitions_of_a_delta_table_are_columns(tmp_path, delta):
    table = rows((1, 1, 1.0), (2, 2, 2.0), (1, 3, 3.0))
    delta(table, partition_by=["card"])
    opened = DeltaReader(Files([tmp_path])).open(DELTA, None)
    assert amounts(opened, (1, 2), (1, 9), (2, 9)) == [1.0, 3.0, 2.0]


def test_a_delta_version_that_is_gone_is_told(tmp_path, delta):
    delta(rows((1, 1, 1.0)))
    reader = DeltaReader(Files([tmp_path]))
    pin = reader.open(DELTA, None).pin
    identity, _, _ = pin.rpartition(":")
    with pytest.raises(ForeignChanged, match="version 7"):
        reader.open(DELTA, f"{identity}:7")
    with pytest.raises(ForeignChanged, match="another"):
        reader.open(DELTA, "delta:another-table:0")


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.parquet", "s3://bucket/x.parquet"])
def test_a_delta_log_that_names_a_file_elsewhere_is_refused(tmp_path, delta, path):
    folder = tmp_path / "project"
    (tmp_path / "outside.parquet").write_bytes(b"secret")
    delta(rows((1, 1, 1.0)))
    folder.mkdir()
    (tmp_path / "events").rename(folder / "events")
    (log,) = (folder / "events" / "_delta_log").glob("*.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "add" in line:
            line["add"]["path"] = path
    log.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises((SourceBroken, ForeignUnreadable)):
        DeltaReader(Files([folder])).open(DELTA, None)


def test_what_is_no_delta_table_is_told(tmp_path):
    (tmp_path / "events").mkdir()
    reader = DeltaReader(Files([tmp_path]))
    with pytest.raises(ForeignUnreadable, match="cannot be read"):
        reader.open(DELTA, None)
    with pytest.raises(SourceBroken, match="does not exist"):
        reader.open(DELTA.model_copy(update={"location": "nowhere"}), None)
    with pytest.raises(SourceBroken, match="outside"):
        reader.open(DELTA.model_copy(update={"location": "../.."}), None)


# -- Iceberg ---------------------------------------------------------------------------------


class Iceberg:
    """An Iceberg table in a folder, with a catalogue of its own."""

    def __init__(self, folder, **properties):
        from pyiceberg.catalog.sql import SqlCatalog

        self._catalog = SqlCatalog(
            "test", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=f"file://{folder}"
        )
        self._catalog.create_namespace("db")
        schema = rows((1, 1, 1.0)).schema
        self.table = self._catalog.create_table(
            "db.events", schema, location=f"file://{folder / 'events'}", properties=properties
        )

    def close(self):
        self._catalog.close()


@pytest.fixture
def iceberg(tmp_path):
    pytest.importorskip("pyiceberg")
    made = Iceberg(tmp_path)
    yield made.table
    made.close()


ICEBERG = ForeignTable(name="events", location="events", format="iceberg", ordered_by="at")


def test_an_iceberg_table_is_joined_at_its_newest_snapshot_or_at_a_pinned_one(tmp_path, iceberg):
    reader = IcebergReader(Files([tmp_path]))
    empty = reader.open(ICEBERG, None)
    assert amounts(empty, (1, 9)) == [None]
    iceberg.append(rows((1, 1, 1.0), (2, 2, 2.0)))
    first = reader.open(ICEBERG, None)
    iceberg.append(rows((1, 3, 3.0), (1, 3, 4.0)))
    second = reader.open(ICEBERG, None)
    assert len({empty.pin, first.pin, second.pin}) == 3
    assert amounts(second, (1, 2), (1, 3), (3, 9), ordered_by="at") == [1.0, 4.0, None]
    assert amounts(reader.open(ICEBERG, first.pin), (1, 9), ordered_by="at") == [1.0]
    assert amounts(reader.open(ICEBERG, empty.pin), (1, 9)) == [None]
    with pytest.raises(ForeignChanged, match="snapshot 7"):
        reader.open(ICEBERG, f"{first.pin.rpartition(':')[0]}:7")
    with pytest.raises(ForeignChanged, match="another"):
        reader.open(ICEBERG, "iceberg:another:7")
    newest = max((tmp_path / "events" / "metadata").glob("*.metadata.json"))
    file = ICEBERG.model_copy(update={"location": str(newest.relative_to(tmp_path))})
    assert reader.open(file, None).pin == second.pin


def test_rows_deleted_from_an_iceberg_table_are_not_joined(tmp_path, iceberg):
    iceberg.append(rows((1, 1, 1.0), (1, 2, 2.0), (2, 2, 5.0)))
    iceberg.delete("amount == 2.0")
    opened = IcebergReader(Files([tmp_path])).open(ICEBERG, None)
    assert amounts(opened, (1, 9), (2, 9)) == [1.0, 5.0]


def test_iceberg_metadata_that_names_a_file_elsewhere_is_refused(tmp_path, iceberg):
    iceberg.append(rows((1, 1, 1.0)))
    inside = tmp_path / "events"
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "events").symlink_to(inside)
    with pytest.raises(SourceBroken):  # the folder is a link that leads out of the project
        IcebergReader(Files([tmp_path / "project"])).open(ICEBERG, None)
    metadata = max((inside / "metadata").glob("*.metadata.json"))
    (tmp_path / "project" / "events").unlink()
    (tmp_path / "project" / "events" / "metadata").mkdir(parents=True)
    (tmp_path / "project" / "events" / "metadata" / metadata.name).write_text(metadata.read_text())
    with pytest.raises(SourceBroken, match="outside"):
        IcebergReader(Files([tmp_path / "project"])).open(ICEBERG, None)


def test_properties_of_an_iceberg_table_load_no_code(tmp_path):
    pytest.importorskip("pyiceberg")
    made = Iceberg(tmp_path)
    made.table.append(rows((1, 1, 1.0)))
    made.close()
    newest = max((tmp_path / "events" / "metadata").glob("*.metadata.json"))
    document = json.loads(newest.read_text())
    document["properties"]["py-io-impl"] = "evil_reader.Reader"
    newest.write_text(json.dumps(document))
    (tmp_path / "evil_reader.py").write_text("raise SystemExit('code was run')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        opened = IcebergReader(Files([tmp_path])).open(ICEBERG, None)
    finally:
        sys.path.remove(str(tmp_path))
    assert amounts(opened, (1, 9)) == [1.0]
    assert "evil_reader" not in sys.modules


@pytest.mark.parametrize(
    ("reader", "module", "extra"),
    [(DeltaReader, "deltalake", "falaj[delta]"), (IcebergReader, "pyiceberg", "falaj[iceberg]")],
)
def test_a_reader_that_is_not_installed_is_named_with_its_extra(
    tmp_path, monkeypatch, reader, module, extra
):
    for name in [name for name in sys.modules if name.split(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ForeignUnreadable, match=module) as told:
        reader(Files([tmp_path])).open(ICEBERG, None)
    assert extra in told.value.hint


def test_files_are_read_in_the_order_in_which_they_were_written(tmp_path, delta):
    for number in range(5):
        delta(rows((1, 1, float(number))))
    opened = DeltaReader(Files([tmp_path])).open(DELTA, None)
    assert amounts(opened, (1, 1), ordered_by="at") == [4.0]
