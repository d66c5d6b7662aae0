"""Attacks on an erasure: reading somebody's data after it, wherever a copy was left.

Markers of one person are planted through the platform's own doors over HTTPS: in a table, in
the quarantine, in an upload, in a training set, in older snapshots, in a backup. After the
erasure every store is opened with all the keys that are left.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow as pa
import pytest

from falaj import declare as of
from falaj.catalog.definitions import Definition
from falaj.kernel.settings import Settings
from falaj.testing.installations import Installation, Person, eventually
from falaj.testing.scanning import readable_copies
from falaj.wiring import backups
from falaj.wiring.assembly import assemble
from falaj.wiring.keyservices import machine_secret_file

WHO, OTHER = 7391846205, 5120948376
NAME = "Marker-Ada-Zq81"
NEEDLES = (str(WHO), NAME)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def declared() -> list[Definition]:
    return [
        of.Source(
            name="bookings", table="bookings", path="bookings.csv", event_time="at",
            columns={"passenger": "integer", "name": "text", "city": "text", "price": "number",
                     "at": "instant"},
            classifications={"name": "personal"}, subject="passenger",
        ),
        of.Entity(name="city", keys={"city": "string"}),
        of.FeatureView(
            name="prices", entity="city", source="bookings", event_time="at",
            aggregates=(of.Aggregate("mean", "mean", "price", window=timedelta(days=2)),),
        ),
        of.FeatureService(name="fares", features=("prices",)),
    ]  # fmt: skip


class Story:
    """A platform on which a person's data went everywhere, and two people who look after it."""

    def __init__(self, installation: Installation) -> None:
        self.up = installation
        self.facts: dict[str, str] = {}

    def person(self, name: str, *roles: str) -> Person:
        with self.up.near(stepped_up=True) as owner:
            link = owner.accounts.invite(name, roles=roles)
        return self.up.enrolled(name, link.secret.get_secret_value())

    def post(self, person: Person, path: str, **body: object) -> httpx.Response:
        with person.client() as web:
            return web.post(path, json=body)

    def done(self, person: Person, job: str) -> None:
        with person.client() as web:
            ended = eventually(
                lambda: (
                    (found := web.get(f"/api/jobs/{job}").json())["state"]
                    not in ("waiting", "running")
                    and found
                )
            )
        assert ended["state"] == "done", ended

    def plant(self) -> None:
        """Put the person's data into every store that takes rows."""
        with (self.up.folder / "bookings.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["passenger", "name", "city", "price", "at"])
            for place in range(40):
                who, name = ((WHO, NAME), (OTHER, "Bo"))[place % 2]
                price = "dear" if place == 6 else str(100 + place)  # one into the quarantine
                at = BEGIN + timedelta(hours=place)
                writer.writerow([who, name, "AUH", price, at.isoformat()])
        with self.up.near(stepped_up=True) as owner:
            owner.definitions.apply([one.document() for one in declared()])
            job = owner.sources.load("bookings")
        self.done(self.engineer, job.id)
        handed = pa.table({"passenger": [WHO], "mail": [f"{NAME}@example.org"]})
        with self.engineer.platform(purpose="fares") as platform:
            platform.tables.upload(
                _stream(handed), subject="passenger", personal=["mail"], description="letters"
            )
            job = platform.training.prepare(
                {
                    "feature_service": "fares",
                    "spine_query": 'SELECT passenger, name, city, "at" AS timestamp FROM bookings',
                    "knowledge": "event",
                }
            )
        self.done(self.engineer, job.id)
        with self.engineer.platform() as platform:
            self.facts["set"] = platform.training.sets()[0].id
        backups.create(self.up.settings, self.up.folder / "backup")


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def copies(settings: Settings) -> dict[str, list[str]]:
    """Where the markers can be read on a platform."""
    premises = assemble(settings)
    try:
        return readable_copies(premises, NEEDLES)
    finally:
        premises.close()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    up = Installation(tmp_path_factory.mktemp("erasure") / "project")
    up.init()
    up.up()
    made = Story(up)
    try:
        made.engineer = made.person("ines", "ml_engineer")
        made.steward = made.person("sara", "steward")
        made.plant()
        made.before = copies(up.settings)
        answer = made.post(made.steward, "/api/privacy/searches", subject=str(WHO))
        made.found = answer.raise_for_status().json()
        answer = made.post(
            made.steward, "/api/privacy/erasures", subject=str(WHO), reason="request 4"
        )
        made.erased = answer.raise_for_status().json()
        yield made
    finally:
        up.stop()


def test_before_the_erasure_the_search_finds_the_copies_that_were_planted(story: Story) -> None:
    places = story.before["lake"]
    for table in ("bookings at", "bookings_quarantine at", "rows_", "training_set_"):
        assert any(place.startswith(table) for place in places), table
    assert story.before["subject keys"]
    assert story.before["lake as it is stored"] == []
    assert story.before["files as they lie on disk"] == []
    where = {one["where"].split("_")[0]: one["n_rows"] for one in story.found}
    assert (where["bookings"], where["training"]) == (1, 19) or where["bookings"] == 19


def test_after_the_erasure_no_store_holds_a_readable_copy(story: Story) -> None:
    found = copies(story.up.settings)
    assert set(found) >= {"lake", "database", "blobs", "event log", "subject keys"}
    assert {store: places for store, places in found.items() if places} == {}


def test_a_restored_backup_holds_no_readable_copy_though_its_store_of_keys_is_there(
    story: Story, tmp_path
) -> None:
    settings = Settings.read(tmp_path)
    file = story.up.folder / "backup"
    backups.restore(settings, file, secret=machine_secret_file(story.up.settings))
    shutil.copytree(story.up.home / "subjects", settings.home / "subjects")
    assert {store: places for store, places in copies(settings).items() if places} == {}
    premises = assemble(settings)
    try:
        rows = premises.lake.scan("bookings")
        assert set(rows["name"].to_pylist()) == {None, "Bo"}
        assert rows.num_rows == 39
    finally:
        premises.close()


def test_a_restored_backup_without_its_store_of_keys_says_so(story: Story, tmp_path) -> None:
    from falaj.wiring.privacyparts import weaknesses

    settings = Settings.read(tmp_path)
    file = story.up.folder / "backup"
    backups.restore(settings, file, secret=machine_secret_file(story.up.settings))
    premises = assemble(settings)
    try:
        assert set(premises.lake.scan("bookings")["name"].to_pylist()) == {None}
        ((what, _),) = weaknesses(premises)
        assert "empty: personal fields of" in what
    finally:
        premises.close()


def test_the_person_is_named_neither_in_the_audit_log_nor_in_the_certificate(story: Story) -> None:
    assert str(WHO) not in str(story.erased)
    with story.up.near() as owner:
        (record,) = owner.audit.search(action="privacy.erase").records
    assert record.outcome == "done"
    assert str(WHO) not in str(record)
    assert record.details["certificate"] == story.erased["certificate"]["id"]


def test_the_receipt_proves_whom_the_certificate_is_about_and_a_guess_does_not(
    story: Story,
) -> None:
    asked = {"certificate": story.erased["certificate"]["id"], "receipt": story.erased["receipt"]}
    for subject, about in ((WHO, True), (OTHER, False)):
        answer = story.post(story.steward, "/api/privacy/proofs", subject=str(subject), **asked)
        assert answer.json()["about_them"] is about
    asked["receipt"] = "guessed"
    answer = story.post(story.steward, "/api/privacy/proofs", subject=str(WHO), **asked)
    assert answer.json()["about_them"] is False


def test_only_a_steward_with_a_fresh_factor_erases(story: Story) -> None:
    asked = {"subject": str(OTHER), "reason": "spite"}
    answer = story.post(story.engineer, "/api/privacy/erasures", **asked)
    assert answer.status_code in (403, 404)
    answer = story.post(story.engineer, "/api/privacy/searches", subject=str(OTHER))
    assert answer.status_code in (403, 404)
    with story.engineer.client() as web:
        assert web.get("/api/privacy/certificates").status_code in (403, 404)
    with story.up.near() as owner:
        assert "bookings" in owner.tables.list()[0].name or owner.tables.list()


def test_a_training_set_with_an_erased_person_is_not_made_again(story: Story) -> None:
    with story.engineer.platform(purpose="fares") as platform:
        job = platform.training.recreate(story.facts["set"])
    with story.engineer.client() as web:
        ended = eventually(
            lambda: (
                (found := web.get(f"/api/jobs/{job.id}").json())["state"]
                not in ("waiting", "running")
                and found
            )
        )
    assert ended["state"] == "failed"
    assert "erased" in str(ended["error"])
