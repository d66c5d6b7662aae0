"""Data that belongs to a region is not copied into another: lake, blobs, files, backups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from falaj.catalog.residency import OutOfRegion, Places
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Forbidden
from falaj.kernel.settings import Settings
from falaj.trust.audit_tables import audit_records
from falaj.wiring import backups
from falaj.wiring.residencyparts import places

SOURCE = {
    "kind": "source", "name": "visits", "table": "visits", "path": "visits.csv",
    "columns": {"branch": "text", "n": "integer", "seen_at": "instant"}, "region": "ae",
}  # fmt: skip
SERVICE = [
    {"kind": "entity", "name": "branch", "keys": {"branch": "string"}},
    {"kind": "feature_view", "name": "visited", "entity": "branch", "source": "visits",
     "event_time": "seen_at", "features": [{"name": "n", "dtype": "int64"}]},
    {"kind": "feature_service", "name": "visited_branches", "features": ["visited"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def visits(site: Any) -> Any:
    """A table of the region ae, made while nobody had said where the installation stands."""
    rows = "branch,n,seen_at\nderia,1,2026-01-01T00:00:00Z\n"
    (site.folder / "visits.csv").write_text(rows, encoding="utf-8")
    engineer = site.caller("ml_engineer", name="ida")
    site.ask(engineer, "definitions.apply", documents=[SOURCE, *SERVICE])
    site.ask(engineer, "sources.load", source="visits")
    site.run_jobs()
    return site


@pytest.fixture
def elsewhere(visits: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Says where each store of the site stands from now on."""
    standing = {"home": "ae", "lake": "ae", "blobs": "ae"}

    def moved(**given: str) -> Any:
        standing.update(given)
        return visits

    reading = property(lambda _self: Places(**standing), lambda _self, _places: None)
    monkeypatch.setattr("falaj.catalog.residency.Residency.places", reading, raising=False)
    yield moved


def engineer(site: Any, **more: Any) -> Any:
    return site.caller("ml_engineer", name="ida", **more)


def refused(site: Any, action: str, **arguments: Any) -> None:
    """The action is refused for the region, and the record says so."""
    with pytest.raises(OutOfRegion, match="'ae'"):
        site.ask(engineer(site, factor=True), action, **arguments)
    with site.premises.database.reading() as connection:
        query = select(audit_records).where(audit_records.c.action == action)
        row = connection.execute(query.order_by(audit_records.c.seq.desc())).first()
    assert json.loads(row.body)["details"]["error"] == "out-of-region"


def test_a_lake_of_another_region_takes_no_source_and_no_load(elsewhere: Any) -> None:
    site = elsewhere(lake="eu")
    refused(site, "definitions.apply", documents=[{**SOURCE, "description": "again"}])
    refused(site, "sources.load", source="visits")


def test_nothing_is_made_of_it_in_another_region(elsewhere: Any) -> None:
    site = elsewhere(lake="eu")
    spec = {"feature_service": "visited_branches", "spine": "visits", "timestamp": "seen_at"}
    refused(site, "training.prepare", spec=spec)
    query = {**spec, "spine": None, "spine_query": "SELECT branch, seen_at FROM VISITS"}
    refused(site, "training.prepare", spec=query)


def test_no_model_of_it_goes_into_a_blob_store_of_another_region(elsewhere: Any) -> None:
    site = elsewhere(blobs="eu")
    split = {"train_until": "2026-01-01T00:00:00Z", "validation_until": "2026-02-01T00:00:00Z"}
    spec = {"feature_service": "visited_branches", "spine": "visits", "timestamp": "seen_at",
            "label": "n", "split": split}  # fmt: skip
    refused(site, "training.train", request={"model": "visits", "spec": spec})


def test_in_its_own_region_all_of_that_is_done(elsewhere: Any) -> None:
    site = elsewhere()
    site.ask(engineer(site), "sources.load", source="visits")
    spec = {"feature_service": "visited_branches", "spine": "visits", "timestamp": "seen_at"}
    assert site.ask(engineer(site), "training.prepare", spec=spec).kind == "training.prepare"


def test_an_engineer_does_not_say_that_it_belongs_elsewhere(visits: Any) -> None:
    for region in ("eu", ""):
        with pytest.raises(Forbidden, match="region"):
            visits.ask(
                engineer(visits), "assets.describe", kind="source", key="visits", region=region
            )
    for region in ("eu", None):
        with pytest.raises(Forbidden, match="region"):
            documents = [{**SOURCE, "region": region, "description": "elsewhere"}]
            visits.ask(engineer(visits), "definitions.apply", documents=documents)
    with visits.premises.database.reading() as connection:
        ref = AssetRef("source", "visits")
        assert visits.premises.catalog.get(connection, ref).region == "ae"


def test_a_backup_is_not_restored_in_another_region(visits: Any, tmp_path: Path) -> None:
    settings = Settings.read(visits.folder)
    made = backups.create(settings, tmp_path / "backup")
    other = tmp_path / "other"
    other.mkdir()
    there = settings.model_copy(update={"home": other / ".falaj", "region": "eu"})
    secret = next(settings.home.glob("**/*secret*"), None)
    with pytest.raises(OutOfRegion, match="'ae'"):
        backups.restore(there, Path(made.file), secret=secret)
    assert not there.home.exists()
    here = there.model_copy(update={"region": "ae"})
    assert backups.restore(here, Path(made.file), secret=secret).n_audit_records


@pytest.mark.parametrize(
    ("setting", "stands"),
    [
        ("file:", "ae"),
        ("s3://models/production?region=eu-west-1", "eu-west-1"),
        ("s3://models/production?endpoint=https://objects.internal", "ae"),
    ],
)
def test_a_bucket_stands_where_its_address_says(setting: str, stands: str) -> None:
    settings = Settings(region="ae", blobs=setting, lake_data=setting)
    assert places(settings) == Places(home="ae", lake=stands, blobs=stands)
