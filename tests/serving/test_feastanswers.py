from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Entity, Feature, FeatureService, FeatureView, OnDemandFeatures
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SetClock, microseconds
from falaj.serving.errors import BadRequest
from falaj.serving.feastanswers import FeastAnswers
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = microseconds(NOW)
CARD = Entity(name="card", keys={"card": "int64"})
PLAIN = FeatureView(
    name="plain", entity=CARD, source="plains", event_time="at", ttl=timedelta(hours=2),
    features=[Feature("amount", "float64"), Feature("n", "int64"), Feature("new", "bool")],
)  # fmt: skip
OTHER = FeatureView(
    name="other", entity=CARD, source="others", event_time="at",
    features=[Feature("amount", "float64"), Feature("holder", "string")],
)  # fmt: skip
DOUBLE = OnDemandFeatures(
    name="double", inputs={"x": "plain:amount"}, outputs=[Feature("twice", "float64")],
    source="def double(x):\n    return x * 2\n",
)  # fmt: skip


@pytest.fixture
def answers(tmp_path: Path) -> Any:
    services = [
        FeatureService(name="numbers", features=[PLAIN]),
        FeatureService(name="words", features=["other:holder", PLAIN]),
        FeatureService(name="both", features=[PLAIN, OTHER]),
        FeatureService(name="asked", features=[PLAIN, DOUBLE], request_fields={"limit": "float64"}),
    ]
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    given = GivenDefinitions(CARD, PLAIN, OTHER, DOUBLE, *services)
    store = FeatureStore(given, MemoryLake(), online, FixedSecrets(), SetClock(NOW))
    times = [
        NOW - timedelta(minutes=1),
        NOW - timedelta(hours=3),
        NOW - timedelta(milliseconds=250),
    ]
    amounts = [0.1, 2.0, math.nan]
    store.push(
        "plains",
        pa.table({"card": [1, 2, 3], "at": times, "amount": amounts, "n": [7, 8, None],
                  "new": [True, False, True]}),
    )  # fmt: skip
    store.push(
        "others",
        pa.table({"card": [1, 3], "at": [NOW, NOW], "amount": [math.inf, -math.inf],
                  "holder": ['a, "b" 100 %', "null"]}),
    )  # fmt: skip

    def ask(service: str, cards: list[Any], *, full: bool = False, **more: Any) -> dict[str, Any]:
        made = FeastAnswers(store.reader(store.plan(service)))
        told = made.answer({"card": cards, **more}, len(cards), AT, full)
        again = made.answer({"card": cards, **more}, len(cards), AT, full)
        assert told == again
        found: dict[str, Any] = json.loads(told)
        return found

    yield ask
    online.close()


def by_name(told: dict[str, Any]) -> dict[str, tuple[list[Any], list[str], list[str]]]:
    return {
        name: (one["values"], one["statuses"], one["event_timestamps"])
        for name, one in zip(told["metadata"]["feature_names"], told["results"], strict=True)
    }


def test_one_entity_of_numbers_is_told_with_times_and_statuses(answers: Any) -> None:
    minute = ["2026-03-01T11:59:00Z"]
    assert by_name(answers("numbers", [1])) == {
        "card": ([1], ["PRESENT"], ["1970-01-01T00:00:00Z"]),
        "amount": ([0.1], ["PRESENT"], minute),
        "n": ([7], ["PRESENT"], minute),
        "new": ([True], ["PRESENT"], minute),
    }


@pytest.mark.parametrize("service", ["numbers", "words", "asked"])
def test_one_entity_and_many_are_told_alike(answers: Any, service: str) -> None:
    more = {"limit": [1.5, 2.5, 3.5, None]} if service == "asked" else {}
    cards = [1, 2, 3, 9]
    together = by_name(answers(service, cards, **more))
    for place, card in enumerate(cards):
        alone = by_name(answers(service, [card], **{k: [v[place]] for k, v in more.items()}))
        expected = {
            name: tuple([part[place]] for part in parts) for name, parts in together.items()
        }
        assert alone == expected


def test_what_is_not_there_is_told_in_feasts_words(answers: Any) -> None:
    told = by_name(answers("numbers", [2, 3, 9, None]))
    assert told["n"][0] == [None] * 4
    assert told["n"][1] == ["OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND"]
    assert told["n"][2][1:3] == ["2026-03-01T11:59:59.750Z", "1970-01-01T00:00:00Z"]


def test_numbers_that_json_does_not_know_are_words_and_are_present(answers: Any) -> None:
    for told in (answers("numbers", [3]), answers("numbers", [3, 3])):
        values, statuses, _ = by_name(told)["amount"]
        assert set(values) == {"NaN"}
        assert set(statuses) == {"PRESENT"}
    full = by_name(answers("both", [1, 3], full=True))
    assert full["other__amount"][0] == ["Infinity", "-Infinity"]


def test_text_with_commas_quotes_and_percent_signs_stays_whole(answers: Any) -> None:
    assert by_name(answers("words", [1]))["holder"][0] == ['a, "b" 100 %']
    assert by_name(answers("words", [3]))["holder"][0] == ["null"]


def test_short_names_that_are_not_clear_must_be_asked_for_in_full(answers: Any) -> None:
    with pytest.raises(BadRequest, match="same name"):
        answers("both", [1])
    assert "plain__amount" in by_name(answers("both", [1], full=True))


def test_names_of_columns_may_hold_anything(answers: Any) -> None:
    told = by_name(answers("numbers", [1], **{'100 % "b"': [5]}))
    assert told['100 % "b"'][0] == [5]
    assert told["amount"][0] == [0.1]
