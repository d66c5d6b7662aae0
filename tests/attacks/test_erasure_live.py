"""Attacks on an erasure: reading a person's data from what is kept on the way to the lake.

Markers of one person are planted online, in the event log, among dead letters, in the
prediction log and in the spool before it. After the erasure every store is opened with all
the keys that are left, and late copies are let in.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from falaj import declare as of
from falaj.kernel.clock import microseconds
from falaj.kernel.settings import Settings
from falaj.serving import tables
from falaj.serving.logged import LoggedRun, PackedRecords, encoded
from falaj.serving.spools import DirectorySpools
from falaj.testing.calls import opened_call
from falaj.testing.scanning import readable_copies
from falaj.trust.subjects import Subject
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.liveparts import live_copies, prediction_drain
from falaj.wiring.privacyparts import erasures
from falaj.wiring.setup import initialise

WHO, OTHER, HOLDER = "Marker-Ada-Zq81", "Bo", "Marker-Mail-Kx42"
NEEDLES = (WHO, HOLDER)
LOG = "predictions_late"


def declared() -> list[Any]:
    card = of.Entity(name="card", keys={"card": "string"})
    common = {"entity": "card", "source": "payments", "event_time": "at", "subject": "card",
              "allowed_lateness": timedelta(minutes=10)}  # fmt: skip
    return [
        card,
        of.Stream(
            name="payments", event_time="at", subject="card",
            columns={"card": "string", "holder": "string", "amount": "float64", "at": "timestamp"},
            classifications={"holder": "personal", "amount": "personal"},
        ),
        of.FeatureView(name="last", features=(of.Feature("holder", "string"),), **common),
        of.FeatureView(
            name="spent", head=timedelta(hours=1),
            aggregates=(of.Aggregate("often", "topk", "holder", dtype="string", k=1,
                                     window=timedelta(days=1)),),
            **common,
        ),
        of.FeatureService(name="both", features=("last", "spent")),
    ]  # fmt: skip


def event(card: str, *, minutes: float = 0.0) -> dict[str, Any]:
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    holder = HOLDER if card == WHO else "mail of Bo"
    return {"card": card, "holder": holder, "amount": 4000.5, "at": at.isoformat()}


def scored(made: Premises, name: str, *cards: str, at: datetime) -> None:
    """Predictions as the log writer leaves them."""
    n = len(cards)
    rows = [{"card": card, "holder": HOLDER if card == WHO else "mail of Bo"} for card in cards]
    numbers = np.zeros((n, 1))
    run = LoggedRun(
        "late", "release_1", "champion", "delay", 1, microseconds(at), microseconds(at),
        [f"pred_{name}_{place}" for place in range(n)], [n], [None], ["someone"], [10],
        list(cards), rows, 1, numbers.astype(np.float32).tobytes(), None, None, 1,
        numbers.tobytes(),
    )  # fmt: skip
    data = PackedRecords([encoded(run)])
    DirectorySpools(made.spool_folder, made.keys).open(LOG).keep(data, data.size, name)


def released(made: Premises) -> None:
    """A release whose predictions are about the holder of a card."""
    with made.database.transaction() as connection:
        tables.keep_release(
            connection, id="release_1", endpoint="late", state="active",
            document={"subject": "card", "subject_kind": "person"}, created_at=datetime.now(UTC),
        )  # fmt: skip


class Story:
    """What was planted, what was read before the erasure, and what can be read behind it."""

    def __init__(self, made: Premises) -> None:
        self.made = made
        store = made.features
        with opened_call(made.database) as call:
            made.definitions.apply(call, declared())
        released(made)
        store.push_records("payments", [event(OTHER), event(WHO)])
        store.push_records("payments", [event(WHO, minutes=-30), event(OTHER)], key=f"{WHO}-1")
        scored(made, "landed", WHO, OTHER, at=datetime.now(UTC))
        prediction_drain(made).run_once()
        store.streams.settle("payments")
        store.push_records("payments", [event(WHO, minutes=1), event(OTHER)], ack="log")
        scored(made, "waiting", WHO, OTHER, at=datetime.now(UTC))
        self.online = self.read()
        self.before = readable_copies(made, NEEDLES)
        (self.key,) = made.subject_keys.of([Subject("person", WHO)], make=False)
        self.found = {copy.name: copy.count(self.key) for copy in live_copies(made)}
        with opened_call(made.database) as call:
            self.certificate, _ = erasures(made).erase(call, self.key.subject, "request 4")
        scored(made, "late", WHO, OTHER, at=datetime.now(UTC) - timedelta(minutes=1))
        prediction_drain(made).run_once()
        made.subject_ciphers.erasures()
        store.streams.settle("payments")
        self.after = readable_copies(made, NEEDLES)

    def read(self) -> list[list[Any]]:
        rows = [{"card": WHO}, {"card": OTHER}, {"card": "nobody ever"}]
        return [list(row) for row in self.made.features.read_online("both", rows).values]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    settings = Settings.read(tmp_path_factory.mktemp("erasure"))
    initialise(settings, owner="owner")
    made = assemble(settings)
    try:
        yield Story(made)
    finally:
        made.close()


def test_before_the_erasure_the_markers_are_read_in_every_store_that_is_looked_through(
    story: Story,
) -> None:
    assert story.online[0] == [HOLDER, [HOLDER]]
    for store in ("lake", "online store", "event log, opened", "predictions on their way"):
        assert story.before[store], store
    assert story.before["files as they lie on disk"] == []
    assert story.before["lake as it is stored"] == story.before["event log"] == []
    assert story.found == {
        "online store": {"last": 1, "spent": 1},
        "event log": {"payments": 3},  # what landed goes with its segment
        "predictions on their way": {LOG: 1},
    }


def test_after_the_erasure_no_store_holds_a_readable_copy(story: Story) -> None:
    assert {store: places for store, places in story.after.items() if places} == {}
    assert {"online store", "event log, opened", "predictions on their way", "lake"} <= set(
        story.after
    )
    left = {copy.name: copy.count(story.key) for copy in live_copies(story.made)}
    assert left["online store"] == left["predictions on their way"] == {}


def test_the_person_reads_online_as_one_who_was_never_known_and_others_as_before(
    story: Story,
) -> None:
    erased, other, never = story.read()
    assert erased == never
    assert other == story.online[1]


def test_dead_letters_and_predictions_stay_without_what_they_said_of_the_person(
    story: Story,
) -> None:
    letters = story.made.lake.scan("payments_dead_letters").to_pylist()
    assert {(one["subject"], one["reason"], one["payload"]) for one in letters} == {
        (None, None, None)
    }
    assert {one["code"] for one in letters} == {"late"}
    rows = story.made.lake.scan(LOG).to_pylist()
    about = {row["prediction_id"]: (row["subject"], row["unit"], row["score"]) for row in rows}
    for name in ("landed", "waiting", "late"):
        assert about[f"pred_{name}_0"] == (None, None, None)
        assert about[f"pred_{name}_1"] == (OTHER, OTHER, 0.0)


def test_no_late_copy_gave_the_person_a_new_key(story: Story) -> None:
    assert story.made.subject_keys.of([Subject("person", WHO)], make=False) == [None]
    (status,) = story.made.features.streams.status("payments")
    assert status.n_erased == 1
    assert {one.store: one.n_rows for one in story.certificate.looked_through}["online store"] == 2
