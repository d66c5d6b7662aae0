"""The chapter of the demo in which a harmful challenger meets passengers, and is rolled back.

The flights and the models are real; the passengers of this chapter are played by this program,
and it says so: of those who met the challenger fewer catch their flight, because the demo wants
it so. That the harm is found, and what follows, is the platform's doing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from falaj.catalog.model import Classification
from falaj.demo.definitions.model import endpoint, flight_delay
from falaj.demo.definitions.sources import departures
from falaj.demo.flights_data import REQUEST_COLUMNS, history
from falaj.demo.live import as_json, request_of
from falaj.demo.running import Questions
from falaj.demo.story import Story
from falaj.interfaces.platform import Platform
from falaj.kernel.errors import Unavailable
from falaj.lake.service import record_table
from falaj.models.model import Stage
from falaj.rollouts.model import (
    CHAMPION,
    Challenger,
    Guardrail,
    Metric,
    MetricKind,
    Rollout,
    RolloutState,
)
from falaj.rollouts.model import Stage as Step
from falaj.wiring.assembly import Premises

ROLLOUT, CHALLENGER, CAUGHT = "flight-delay-canary", "hasty", "caught"
BOARDINGS = "boardings"
CATCHES = {CHAMPION: 0.9, CHALLENGER: 0.6}
"""How many of the played passengers catch their flight, by the variant that advised them."""
PATIENCE_SECONDS = 300.0
AT_ONCE = 60
PAUSE_SECONDS = 0.3
AFTERWARDS = 200


def metric() -> Metric:
    """Who caught the flight."""
    return Metric(
        name=CAUGHT,
        description="Passengers who caught their flight after they were advised.",
        measures=MetricKind.PROPORTION,
        tables=(BOARDINGS,),
        sql=f"SELECT unit, known_at, value FROM {BOARDINGS}",
    )


def canary(version: int) -> Rollout:
    """A tenth of the passengers at first, then half; who catches flights guards it."""
    second = timedelta(seconds=1)
    return Rollout(
        name=ROLLOUT,
        endpoint=endpoint.name,
        challengers=(Challenger(name=CHALLENGER, version=version, share=0.5),),
        stages=(
            Step(share=0.2, hold=3 * second, least_units=50),
            Step(share=0.5, hold=600 * second, least_units=5_000),
        ),
        guardrails=(Guardrail(metric=CAUGHT), Guardrail(metric="error_rate")),
        look_every=second,
    )


@dataclass
class Passengers:
    """Asks about ever new passengers, and plays what becomes of them.

    Args:
        questions: asks the endpoint.
        premises: of the platform: outcomes are written into its lake, as a loading would.
        rows: of flights, as a request takes them.
    """

    questions: Questions
    premises: Premises
    rows: list[dict[str, Any]]
    owner: str = "noura"
    met: dict[str, int] = field(default_factory=dict)
    caught: dict[str, int] = field(default_factory=dict)
    n: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(13)  # noqa: S311 - played

    def advised(self, n: int) -> Mapping[str, int]:
        """Ask about n passengers; tells how many met each variant of them."""
        bodies = []
        for _ in range(n):
            body = request_of(self.rows[self.n % len(self.rows)])
            body["request_id"] = passenger = f"passenger-{self.n}"
            body["inputs"] = [{**body["inputs"][0], "advised": passenger}]
            bodies.append(body)
            self.n += 1
        now: dict[str, int] = {}
        outcomes = []
        for answer in self.questions.ask(bodies):
            catches = self._chance.random() < CATCHES.get(answer.variant, CATCHES[CHAMPION])
            for counts in (now, self.met):
                counts[answer.variant] = counts.get(answer.variant, 0) + 1
            self.caught[answer.variant] = self.caught.get(answer.variant, 0) + catches
            outcomes.append((answer.request_id, float(catches)))
        self._told(outcomes)
        return now

    def _told(self, outcomes: list[tuple[str, float]]) -> None:
        units, values = zip(*outcomes, strict=True)
        at = pa.array([datetime.now(UTC)] * len(units), pa.timestamp("us", tz="UTC"))
        table = pa.table({"unit": list(units), "known_at": at, "value": list(values)})
        lake, first = self.premises.lake, not self.premises.lake.exists(BOARDINGS)
        lake.append(BOARDINGS, table)
        if first:
            with self.premises.calls.opened("demo.boardings", f"user:{self.owner}") as call:
                record_table(
                    call, self.premises.catalog, BOARDINGS, classification=Classification.INTERNAL
                )


def try_and_roll_back(
    owner: Platform,
    approver: Platform,
    story: Story,
    premises: Premises,
    questions: Questions,
    version: int,
) -> None:
    """Start a canary of a version that does harm, and watch it being rolled back."""
    why = "A canary whose passengers miss their flights. (The passengers are played.)"
    with story.chapter("Rolled back", why):
        left = history(departures, premises.settings.data_folders[0])
        asked = left.select(["asked_at", "flight_id", *REQUEST_COLUMNS])
        newest = asked.sort_by([("asked_at", "descending")]).slice(0, 1_000)
        passengers = Passengers(questions, premises, as_json(newest))
        passengers.advised(AT_ONCE)
        _started(owner, approver, story, version)
        began = time.monotonic()
        with story.progress("passengers", None) as bar:
            while True:
                passengers.advised(AT_ONCE)
                bar.say(f"{passengers.n:,} passengers, {passengers.met.get(CHALLENGER, 0):,} by it")
                run = owner.rollouts.show(ROLLOUT).run
                if run is not None and run.state is RolloutState.ROLLED_BACK:
                    break
                if time.monotonic() - began > PATIENCE_SECONDS:
                    raise Unavailable(
                        f"{ROLLOUT} was not rolled back in {PATIENCE_SECONDS:.0f} s.",
                        hint="See falaj-up.log in the demo's folder.",
                    )
                time.sleep(PAUSE_SECONDS)
        seconds = time.monotonic() - began
        story.table(
            ["advised by", "passengers", "caught the flight"],
            [[name, n, passengers.caught[name] / n] for name, n in sorted(passengers.met.items())],
        )
        story.refused(f"{CHALLENGER}, after {seconds:.0f} s", run.why)
        again = dict(passengers.advised(AFTERWARDS))
        told = ", ".join(f"{n} by {name}" for name, n in sorted(again.items()))
        story.done(f"the next {AFTERWARDS} passengers are advised: {told}")
        if run.outcome.incident and run.outcome.emergency:
            incident = owner.incidents.get(run.outcome.incident)
            change = owner.changes.get(run.outcome.emergency)
            story.done(f"{incident.id} is open", priority=incident.priority)
            story.done(f"{change.id} ({change.type}) waits for a review within 24 hours")


def _started(owner: Platform, approver: Platform, story: Story, version: int) -> None:
    change = owner.models.promote(
        flight_delay.name, version, to=Stage.STAGING, reason="To be tried on passengers."
    )
    approver.changes.approve(change.id, reason="Its gates passed.")
    owner.definitions.apply([metric().document(), canary(version).document()])
    start = owner.rollouts.start(ROLLOUT, reason="It looks good on paper.")
    approver.changes.approve(start.id, reason="On a fifth of the passengers first.")
    story.done(f"version {version} meets a fifth of the passengers, approved by another person")
