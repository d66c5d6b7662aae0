"""Challengers' failures are counted, whatever becomes of the champion in their place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from falaj.kernel.errors import Unavailable
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import FeaturesMissing
from falaj.serving.model import (
    Durability,
    FeatureStatus,
    FieldType,
    MissingPolicy,
    RequestField,
    ServableModel,
    Variant,
)
from falaj.serving.plan import RequestPlan
from falaj.serving.predictor import Predictor
from falaj.serving.routing import RoutingTable
from falaj.serving.splits import Assignment, Split
from falaj.testing.serving import MemoryBundles, Running, make_release, worker

POISON = 1_000
NO_FEATURE = 10_000
"""Cards from here on have no feature."""


class Cards:
    """The one feature of a card: its number; none of those that have none."""

    names = ("card_seen",)
    asks_nothing = False

    def compile(self, document: Mapping[str, Any], categories: Mapping[str, Any]) -> Cards:
        return self

    def read(self, rows: Sequence[Any], at_us: Any) -> tuple[Any, Any, Any]:
        cards = np.array([[row.card] for row in rows], np.float32)
        lacks = cards >= NO_FEATURE
        statuses = np.where(lacks, FeatureStatus.MISSING, FeatureStatus.PRESENT).astype(np.uint8)
        return np.where(lacks, np.nan, cards), statuses, np.zeros(cards.shape, np.int64)


class Moody:
    """A runtime whose models give a row's number, but for those that ``fails`` raises at."""

    n_inputs = 1

    def __init__(self, name: str, fails: Callable[[NDArray[np.float32]], None]) -> None:
        self.formats = (name,)
        self._fails = fails

    def load(self, model: ServableModel) -> Moody:
        return self

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self._fails(rows)
        return np.nan_to_num(rows)


def fails_on_the_poison(rows: NDArray[np.float32]) -> None:
    if np.isnan(rows).any() or (rows >= POISON).any():
        raise ValueError("this model fails on the poison")


def loses_its_process(rows: NDArray[np.float32]) -> None:
    if len(rows) and (rows >= POISON).any():
        raise Unavailable("The model's process is gone.", hint="Repeat the request.")


def fails_never(rows: NDArray[np.float32]) -> None:
    return


RUNTIMES = [
    Moody("poisoned", fails_on_the_poison),
    Moody("lost", loses_its_process),
    Moody("sound", fails_never),
]
BUNDLES = {
    f"sha256:{name}": ServableModel(name, b"", ("card_seen",))
    for name in ("poisoned", "lost", "sound")
}


def compiler() -> PlanCompiler:
    return PlanCompiler(MemoryBundles(BUNDLES), RUNTIMES, Cards())  # type: ignore[arg-type]


def release(name: str, champion: str, *challengers: str, **more: Any) -> Any:
    return make_release(
        f"release_{name}",
        endpoint=name,
        fields=(RequestField(name="card", type=FieldType.INT),),
        unit="card",
        features={},
        feature_service="cards",
        missing=MissingPolicy.REFUSE,
        variants=(
            Variant(model="delay", version=1, bundle=f"sha256:{champion}"),
            *(
                Variant(name=one, model="delay", version=place, bundle=f"sha256:{one}", share=0.0)
                for place, one in enumerate(challengers, 2)
            ),
        ),
        assignment=Assignment(salt=name, final={one: 1 / len(challengers) for one in challengers}),
        **more,
    )


def divided(made: Any) -> Split:
    """All meet the challengers, each as many."""
    shares = dict(made.assignment.final)
    return Split(endpoint=made.endpoint, release=made.id, shares=shares)


def planned(*variants: str) -> RequestPlan:
    made = release("planned", *variants)
    plan = compiler().compile(made)
    plan.divide(divided(made))
    return plan


def body(*cards: int) -> dict[str, Any]:
    return {"inputs": [{"card": card} for card in cards]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("standingin")
    table = RoutingTable(folder / "routing")
    with worker(table, MemoryBundles(BUNDLES), compiler(), folder) as one:
        yield one
    table.close()


def serve(running: Running, name: str, *variants: str, **more: Any) -> None:
    made = release(name, *variants, **more)
    running.activate(made)
    running.table.split(name, divided(made))


def counted(running: Running, name: str) -> dict[str, int]:
    return {
        one.variant: one.failed
        for one in running.meters.series()
        if one.endpoint == name and one.variant
    }


def test_a_failure_counts_though_the_request_is_refused_for_a_feature_that_it_lacks(
    running: Running,
) -> None:
    serve(running, "lacking", "sound", "poisoned")
    answer = running.predict(body(NO_FEATURE), endpoint="lacking")
    assert answer.json()["code"] == FeaturesMissing.code
    assert counted(running, "lacking")["poisoned"] == 1
    assert running.meters.units("lacking")["poisoned", False].sum() == 1


def test_a_failure_counts_though_another_challenger_of_the_request_meets_another_error(
    running: Running,
) -> None:
    serve(running, "both", "sound", "poisoned", "lost")
    answer = running.predict(body(*range(POISON, POISON + 20)), endpoint="both")
    assert answer.json()["code"] == Unavailable.code
    assert counted(running, "both")["poisoned"] == 1


def test_a_failure_counts_though_what_the_champion_said_could_not_be_kept(
    running: Running,
) -> None:
    serve(running, "unkept", "sound", "poisoned", durability=Durability.REQUEST)
    running.spools.broken = True
    try:
        assert running.predict(body(POISON), endpoint="unkept").is_error
    finally:
        running.spools.broken = False
    assert counted(running, "unkept")["poisoned"] == 1


def test_of_a_run_the_failure_of_one_that_is_refused_goes_with_the_others() -> None:
    plan = planned("sound", "poisoned")
    parsed = [
        plan.parse(json.dumps(body(card)).encode(), caller="user:a", started=0.0)
        for card in (1, NO_FEATURE, 2)
    ]
    answers, parts = plan.score(parsed)
    assert [isinstance(one, FeaturesMissing) for one in answers] == [False, True, False]
    assert {part.variant.variant.name for part in parts} == {"poisoned"}
    (failed,) = [part.failed for part in parts if part.failed is not None]
    assert [owner for owner, _ in failed["poisoned"]] == [parsed[1]]


@pytest.mark.parametrize(
    ("champion", "card", "code"),
    [("lost", POISON, Unavailable.code), ("sound", NO_FEATURE, FeaturesMissing.code)],
)
def test_who_asks_in_this_process_is_told_of_the_champions_own_error(
    champion: str, card: int, code: str
) -> None:
    plan = planned(champion, "poisoned")
    plans: Any = SimpleNamespace(behind=False, named=lambda _name: plan)
    log: Any = SimpleNamespace(write=lambda _parts: None)
    with pytest.raises(Unavailable if champion == "lost" else FeaturesMissing) as raised:
        Predictor(plans, log).predict("planned", body(card)["inputs"], caller="user:a")
    assert raised.value.code == code
