"""The chapters of the demo in which a smaller model meets half of the flights: an A/B test.

The flights, the answers and the outcomes are real: an outcome is told to the platform after its
flight was asked about and has left in the replay, so labels arrive late. Instants are those of
this run: the test lives on the platform's clock, on which an autumn takes less than a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from falaj.catalog.model import Classification
from falaj.demo.definitions.model import endpoint, flight_delay
from falaj.demo.flights import followed
from falaj.demo.flights_data import PARAMETERS, training_request
from falaj.demo.live import Lived
from falaj.demo.replay import Tick
from falaj.demo.story import Story
from falaj.features.plan import ServicePlan
from falaj.interfaces.platform import Platform
from falaj.kernel.errors import Unavailable
from falaj.lake.service import record_table
from falaj.models.model import ModelVersion, Stage
from falaj.rollouts.model import (
    Challenger,
    Guardrail,
    Metric,
    MetricKind,
    Rollout,
    RolloutKind,
    RolloutState,
    Success,
)
from falaj.rollouts.records import Run
from falaj.serving.names import table_of
from falaj.training.model import TrainingRequest
from falaj.wiring.assembly import Premises

TEST, CHALLENGER, RIGHT = "flight-delay-small-trees", "small", "told_right"
OUTCOMES = "outcomes"
LATE_FROM = 0.4
"""A flight is told to be late from this score on, as in the gates of fairness."""
SMALL: dict[str, int | float] = {"n_trees": 50, "learning_rate": 0.2, "num_leaves": 15}
TOLERATED = 0.05
MOST_FLIGHTS = 4_000
LOOKS = 4
TICKS_TOGETHER = 10
PATIENCE_SECONDS = 300.0


def metric() -> Metric:
    """Whether a flight was told rightly: late or not, by what came."""
    log = table_of(endpoint.name)
    return Metric(
        name=RIGHT,
        description="Flights that were told rightly two hours ahead: late, or not late.",
        measures=MetricKind.PROPORTION,
        tables=(OUTCOMES,),
        sql=f"SELECT p.unit, o.known_at, CAST((p.score >= {LATE_FROM}) = (o.late > 0) AS DOUBLE) "
        f"AS value FROM {log} AS p JOIN {OUTCOMES} AS o ON p.unit = o.unit",
    )


def ab_test(version: int) -> Rollout:
    """Half of the flights each; decided in a planned number of looks at a planned sample."""
    return Rollout(
        name=TEST,
        endpoint=endpoint.name,
        how=RolloutKind.AB,
        challengers=(Challenger(name=CHALLENGER, version=version, share=0.5),),
        guardrails=(Guardrail(metric="error_rate"),),
        success=Success(
            metric=RIGHT,
            method="group_sequential",
            non_inferiority=TOLERATED,
            looks=LOOKS,
            most_units=MOST_FLIGHTS,
        ),
        look_every=timedelta(seconds=1),
    )


@dataclass
class Outcomes:
    """Tells the platform how flights left that it was asked about, some ticks together.

    Args:
        premises: of the platform: outcomes are written into its lake, as a loading would.
        owner: in whose name the table is recorded.
    """

    premises: Premises
    owner: str
    n: int = 0
    _left: dict[str, float] = field(default_factory=dict)
    _ticks: int = 0

    def begin(self) -> None:
        """Make the table, so that a metric may name it; no outcome is known yet."""
        self.premises.lake.append(OUTCOMES, _outcomes([], [], []))
        with self.premises.calls.opened("demo.outcomes", f"user:{self.owner}") as call:
            record_table(
                call, self.premises.catalog, OUTCOMES, classification=Classification.INTERNAL
            )

    def after(self, tick: Tick, seen: Lived) -> None:
        """Keep what left in a tick; tell it with others, after the tick's answers."""
        rows = tick.events.get("departures")
        if rows is not None:
            ids, late = rows.column("flight_id").to_pylist(), rows.column("late").to_pylist()
            self._left.update(zip(ids, late, strict=True))
        self._ticks += 1
        if self._ticks % TICKS_TOGETHER == 0 or not tick.requests.num_rows:
            self._tell(seen)

    def _tell(self, seen: Lived) -> None:
        asked = [one.request_id for one in seen.answers if one.request_id in self._left]
        if not asked:
            return
        now = pa.array([datetime.now(UTC)] * len(asked), pa.timestamp("us", tz="UTC"))
        late = pa.array([self._left.pop(one) for one in asked], pa.float64())
        self.premises.lake.append(OUTCOMES, _outcomes(asked, now, late))
        self.n += len(asked)


def _outcomes(units: Any, known_at: Any, late: Any) -> pa.Table:
    types = (pa.string(), pa.timestamp("us", tz="UTC"), pa.float64())
    columns = [
        pa.array(one, kind) if isinstance(one, list) else one
        for one, kind in zip((units, known_at, late), types, strict=True)
    ]
    return pa.table(columns, names=["unit", "known_at", "late"])


@contextmanager
def challenged(
    owner: Platform, story: Story, version: ModelVersion, plan: ServicePlan
) -> Iterator[ModelVersion]:
    """The chapter: train a smaller model on the same rows and inputs, and run its gates; then a
    test of it is started."""
    why = "Would a much smaller model tell as many flights rightly? The autumn will decide."
    with story.chapter("Challenged", why):
        training_set = owner.runs.get(version.run).training_set
        request = TrainingRequest(
            model=version.model,
            training_set=training_set,
            features=training_request(tuple(plan.outputs)).features,
            params={**PARAMETERS, **SMALL},
        )
        told = followed(owner, story, owner.training.train(request), "training a smaller model")
        small: ModelVersion = owner.models.get(version.model, told["version"])
        followed(owner, story, owner.models.gates(small.model, small.version), "running the gates")
        yield small


def challenge(owner: Platform, approver: Platform, story: Story, small: ModelVersion) -> None:
    """Start an A/B test of the smaller model, as two people want it."""
    change = owner.models.promote(
        flight_delay.name, small.version, to=Stage.STAGING, reason="A fraction of the trees."
    )
    approver.changes.approve(change.id, reason="Its gates passed.")
    story.done(
        f"version {small.version} passed its gates, and stands in staging",
        validation_auc=small.metrics["validation_auc"],
    )
    owner.definitions.apply([metric().document(), ab_test(small.version).document()])
    start = owner.rollouts.start(TEST, reason="Half of the flights each.")
    approver.changes.approve(start.id, reason="Who is told wrongly still gets a forecast.")
    story.done(
        f"{TEST}: half of the flights each; at most {MOST_FLIGHTS:,} flights, {LOOKS} looks; "
        f"enough is not to tell {TOLERATED:.0%} fewer rightly"
    )


def decide(owner: Platform, approver: Platform, story: Story, outcomes: Outcomes) -> None:
    """Wait for the test's decision; whatever it is, tell it; a winner waits for a person."""
    why = "Labels came when flights had left; the test looked at shares of its planned sample."
    with story.chapter("Decided", why):
        _ended(owner)
        looks = owner.rollouts.looks(TEST, limit=300)
        rows: list[list[Any]] = []
        for kept in looks:
            for one in kept.look.success:
                if one.low is None or one.high is None or one.estimate is None:
                    continue
                # Between its planned looks a group sequential test tells its last one again.
                n = [int(one.n_champion), int(one.n_challenger)]
                if not rows or rows[-1][1:3] != n:
                    rows.append(
                        [len(rows) + 1, *n,
                         f"{one.estimate:+.1%}", f"{one.low:+.1%} to {one.high:+.1%}",
                         (one.decided or "goes on").replace("_", " ")]
                    )  # fmt: skip
        story.table(
            ["look", "by the champion", "by the small one", "told rightly", "interval", "decided"],
            rows,
            title=f"of {outcomes.n:,} flights whose outcome is known",
        )
        run = owner.rollouts.show(TEST).run
        if run is None:
            raise Unavailable(f"{TEST} has no run.", hint="See falaj-up.log in the demo's folder.")
        story.done(f"{TEST} has {run.state.value.replace('_', ' ')}: {run.why}")
        if run.outcome.promotion is not None:
            approver.changes.approve(run.outcome.promotion, reason="Smaller, and as good.")
            story.done(f"{run.outcome.promotion} puts the winner into production, by a person")
        _closed(owner)
        active = owner.endpoints.status(endpoint.name).active
        if active is not None:
            served = ", ".join(str(one.version) for one in active.variants)
            story.done(f"{active.id} answers with version {served}")


def _ended(owner: Platform) -> None:
    """Until nothing more is looked at but for a promotion's sake."""
    _until(owner, lambda run: run.state is not RolloutState.RUNNING and (
        run.outcome.promotion is not None or run.state is not RolloutState.SUCCEEDED
    ))  # fmt: skip


def _closed(owner: Platform) -> None:
    """Until nothing is left to do, so that the endpoint is free for another rollout."""
    _until(owner, lambda run: not run.is_open)


def _until(owner: Platform, holds: Callable[[Run], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        run = owner.rollouts.show(TEST).run
        if run is not None and holds(run):
            return
        if time.monotonic() > until:
            stands = "did not begin" if run is None else f"is {run.state}, {run.step}: {run.why}"
            raise Unavailable(
                f"{TEST} {stands} after {PATIENCE_SECONDS:.0f} s.",
                hint="See falaj-up.log in the demo's folder.",
            )
        time.sleep(0.3)
