"""A rollout in a small world of its own: real records, a fake of the traffic, a scripted judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Forbidden
from falaj.kernel.outbox import Outbox
from falaj.models.model import Stage
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incidents import Incidents
from falaj.operations.model import Change
from falaj.rollouts import runs
from falaj.rollouts.following import Following
from falaj.rollouts.model import Challenger, GuardrailReading, Look, Metric, Rollout, SuccessReading
from falaj.rollouts.model import Stage as Step
from falaj.rollouts.ports import Began, Division, Underway
from falaj.rollouts.records import Run
from falaj.rollouts.running import Engine
from falaj.rollouts.starting import START, Starting
from falaj.rollouts.steering import Steering
from falaj.serving.model import Endpoint
from falaj.serving.tables import at_commit
from falaj.testing.calls import opened_call
from falaj.testing.fakes import MemoryAudit

BEGIN = datetime(2026, 11, 1, 8, tzinfo=UTC)


class FakeTraffic:
    """Keeps the promises of ``ports.Traffic`` in memory: what is asked holds from the commit."""

    def __init__(self) -> None:
        self.layers: dict[str, float] = {}
        self.release: str | None = "release_champion"
        self.shares: dict[str, float] = {}
        self.done: list[tuple[Any, ...]] = []
        self.fails: Exception | None = None

    def serving(self, connection: Connection, endpoint: str) -> str | None:
        """What a test has put there, or what began or ended last."""
        return self.release

    def begin_rollout(self, call: Call, division: Division) -> Began:
        """From the commit on the shares are those of the division."""

        def begun() -> None:
            self.release, self.shares = f"release_of_{division.run}", dict(division.shares)

        at_commit(call.connection, begun)
        rollout = division.rollout
        low = self.layers.get(rollout.layer or "", 0.0)
        high = low + rollout.layer_share
        if rollout.layer is not None:
            self.layers[rollout.layer] = high
        return Began(
            release=f"release_of_{division.run}", model="late", champion=1, low=low, high=high
        )

    def divide(self, call: Call, endpoint: str, shares: Mapping[str, float]) -> None:
        """From the commit on the shares are these."""
        given = dict(shares)

        def divided() -> None:
            self.shares = given
            self.done.append(("divide", given))

        at_commit(call.connection, divided)

    def halt(self, endpoint: str) -> None:
        """Note it, at once."""
        self.done.append(("halt", endpoint))

    def end_rollout(self, call: Call, endpoint: str, *, keep: str) -> str:
        """From the commit on one variant serves; raises what the test put in ``fails``."""
        if self.fails is not None:
            raise self.fails

        def ended() -> None:
            self.release, self.shares = f"release_of_{keep}", {keep: 1.0}
            self.done.append(("end", keep))

        at_commit(call.connection, ended)
        return f"release_of_{keep}"

    def quarantine(self, call: Call, model: str, version: int, reason: str) -> None:
        """Note it, at the commit."""
        at_commit(call.connection, lambda: self.done.append(("quarantine", model, version)))


class Scripted:
    """A judge who says what the test wants; ``while_looking`` happens during the look."""

    def __init__(self) -> None:
        self.says = Look()
        self.error: Exception | None = None
        self.asked: list[Underway] = []
        self.forgotten: list[str] = []
        self.while_looking: Callable[[], object] = lambda: None

    def forget(self, rollout: str) -> None:
        """Note it."""
        self.forgotten.append(rollout)

    def look(self, underway: Underway, now: datetime) -> tuple[Look, Mapping[str, object]]:
        """What the test wants, and a memory that counts looks."""
        self.asked.append(underway)
        self.while_looking()
        if self.error is not None:
            raise self.error
        return self.says, {"looks": int(str(underway.memory.get("looks", 0))) + 1}


class Requests:
    """Sample requests."""

    def request_ids(self, run: Run, variant: str, *, limit: int = 20) -> list[str]:
        """Two of them."""
        return [f"{variant}-request-{place}" for place in range(2)]


class Asked:
    """Promotions whose only gate is a real change."""

    def __init__(self, changes: Callable[[], Changes]) -> None:
        self._changes = changes
        self.fails: Exception | None = None

    def ask(
        self, call: Call, model: str, version: int, to: Stage, reason: str, *, evidence: Any
    ) -> Change:
        """Open the change; raises what the test put in ``fails``."""
        if self.fails is not None:
            raise self.fails
        return self._changes().open(
            call, kind="promotion", subject=AssetRef("endpoint", "late"),
            title=f"{model}/{version}", reason=reason, evidence=evidence,
            payload={"version": version},
        )  # fmt: skip


class Trial:
    """The parts, and words to test them with."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, SetClock(BEGIN)
        self.calls = Calls(database, MemoryAudit(), Outbox(), self.clock)
        self.catalog = Catalog()
        self.may_read = True
        self.definitions = Definitions(
            self.catalog,
            {"rollout": Rollout, "endpoint": Endpoint, "metric": Metric},
            {"metric": lambda call, metric: self.starting.metric_applied(call, metric)},  # noqa: PLW0108
        )
        self.traffic, self.judge = FakeTraffic(), Scripted()
        self.incidents = Incidents(self.catalog)
        self.alerts = Alerts(self.catalog, self.incidents)
        self.changes = Changes(
            self.catalog,
            {
                START: lambda call, change: self.starting.begin(call, change),  # noqa: PLW0108
                "promotion": lambda _call, _change: None,
            },
        )
        self.stage = Stage.STAGING
        registry: Any = SimpleNamespace(version=lambda *_asked: SimpleNamespace(stage=self.stage))
        self.promotions = Asked(lambda: self.changes)
        promotions: Any = self.promotions
        self.starting = Starting(
            self.definitions, self.changes, self.traffic, self._checked, self.clock
        )
        self.following = Following(
            self.traffic, self.changes, self.alerts, self.incidents, promotions, registry
        )
        self.steering = Steering(self.following)
        self.engine = self.new_engine()
        with self.call() as call:
            self.catalog.record(call, AssetRef("model", "late"))
            endpoints = [Endpoint(name=name, model="late") for name in ("late", "early")]
            self.definitions.apply(call, endpoints)

    def _checked(self, call: Call, rollout: Rollout) -> None:
        if not self.may_read:
            raise Forbidden("You may not read its tables.")

    def new_engine(self) -> Engine:
        """As another worker process has one."""
        return Engine(self.calls, self.judge, self.traffic, self.following, Requests())

    @contextmanager
    def call(self, by: str = "user:amina") -> Iterator[Call]:
        """A call of somebody, at the trial's time."""
        with opened_call(self.database, by, now=self.clock.now()) as call:
            yield call

    def declared(self, **given: Any) -> Rollout:
        """A rollout that is applied: a canary of two stages, unless something else is given."""
        told: dict[str, Any] = {
            "name": "try-two",
            "endpoint": "late",
            "challengers": (Challenger(name="two", version=2, share=0.5),),
            "stages": (
                Step(share=0.1, hold=timedelta(minutes=5), least_units=100),
                Step(share=0.5, hold=timedelta(minutes=5), least_units=100),
            ),
            "look_every": timedelta(seconds=30),
        }
        rollout = Rollout(**(told | given))
        with self.call() as call:
            self.definitions.apply(call, [rollout])
        return rollout

    def started(self, **given: Any) -> Run:
        """The run of a rollout whose start was asked for and approved."""
        rollout = self.declared(**given)
        with self.call() as call:
            change = self.starting.ask(call, rollout.name, "Version 2 looks better offline.")
        with self.call("user:omar") as call:
            self.changes.approve(call, change.id, "The evidence is good.")
        return self.run(rollout.name)

    def run(self, name: str = "try-two") -> Run:
        """The newest run of a rollout."""
        with self.database.reading() as connection:
            found = runs.newest(connection, name)
        if found is None:
            raise LookupError(name)
        return found

    def after(self, seconds: float = 30) -> Run:
        """Some time later the engine looks; the run as it is then."""
        self.clock.move(timedelta(seconds=seconds))
        self.engine.run_once()
        return self.run()

    def sees(self, *, two: int = 0, champion: int = 0, **given: Any) -> None:
        """From now on the judge says this of two variants."""
        self.judge.says = Look(units={"champion": champion, "two": two}, **given)

    def sees_harm(self, metric: str = "error_rate", **given: Any) -> None:
        """From now on a guardrail is breached."""
        self.sees(two=200, champion=1800, guardrails=[_breach(metric)], **given)

    def sees_success(self, decided: Any = "better", **given: Any) -> None:
        """From now on the success metric is decided."""
        reading = SuccessReading(
            metric="conversion", challenger="two", n_champion=1000, n_challenger=1000,
            estimate=0.08, low=0.02, high=0.14, decided=decided,
        )  # fmt: skip
        self.sees(two=1000, champion=1000, success=[reading], **given)


def _breach(metric: str) -> GuardrailReading:
    return GuardrailReading(
        metric=metric, challenger="two", n_champion=1800, n_challenger=200, champion=0.01,
        challenger_value=0.4, worse_by=20.0, error=0.025, breached=True,
    )  # fmt: skip


@pytest.fixture
def trial(sqlite_database: Database) -> Trial:
    """A trial in a database of its own."""
    return Trial(sqlite_database)
