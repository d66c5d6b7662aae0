"""Rollbacks under full load: from the decision to the last answer of the challenger.

An endpoint serves half of its units with a challenger, on two real inference workers that
``wrk`` keeps busy. The engine of rollouts looks, and its judge (the benchmark's own) says that a
guardrail is breached: from there on it is all as in production, on the same records. Meanwhile
four clients ask about units that the challenger serves, and note when each question was sent and
who answered. What is told is the time from the judge's verdict to the sending of the last question
that the challenger answered, and to the end of the whole rollback: incident, emergency change and
the champion's own release. The versions stand in no registry here, so quarantine is left out; it
comes behind the switch of the traffic.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from measuring import Row, arguments, median, report
from stand import ours
from stand.classifier import NAMES, make_classifier
from stand.load import Load, client_name, request
from stand.processes import cores

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.rollouts.model import Look, Rollout
    from falaj.rollouts.ports import Underway
    from falaj.rollouts.records import Run

CONNECTIONS, WATCHERS, GOAL_SECONDS = 16, 4, 1.0
PATH = "/v1/endpoints/bench/predict"


class Verdict:
    """A judge who finds harm, and notes when he has said so."""

    def __init__(self) -> None:
        self.said_at = 0.0

    def look(self, underway: Underway, now: datetime) -> tuple[Look, Mapping[str, object]]:
        """Harm."""
        from falaj.rollouts.model import GuardrailReading, Look

        breach = GuardrailReading(
            metric="error_rate", challenger="tried", n_champion=1, n_challenger=1, champion=0.0,
            challenger_value=1.0, worse_by=1.0, error=0.025, breached=True,
        )  # fmt: skip
        look = Look(guardrails=[breach])
        self.said_at = time.perf_counter()
        return look, {}

    def forget(self, rollout: str) -> None:
        """Nothing is kept."""


class NoRequests:
    """No samples: the log is not moved into a lake here."""

    def request_ids(self, run: Run, variant: str, *, limit: int = 20) -> list[str]:
        """None."""
        return []


@dataclass
class Watch:
    """Clients that ask without a pause about units of the challenger."""

    port: int
    head: str
    units: list[str]
    row: dict[str, float]
    seen: list[tuple[float, str]] = field(default_factory=list)
    """When a question was sent, and which variant answered."""
    errors: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask until it is stopped."""
        name, _, value = self.head.strip().partition(": ")
        headers = {name: value, "content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        place = 0
        while not self.stopped.is_set():
            place = (place + 1) % len(self.units)
            body = json.dumps({"inputs": [{**self.row, "who": self.units[place]}]})
            sent = time.perf_counter()
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status != 200:
                self.errors += 1
                continue
            self.seen.append((sent, json.loads(told)["predictions"][0].get("variant", "champion")))


class Bench:
    """One platform, its rollouts, and what looks after them."""

    def __init__(self, platform: ours.Platform) -> None:
        from falaj.rollouts.following import Following
        from falaj.rollouts.running import Engine
        from falaj.rollouts.servedtraffic import ServedTraffic
        from falaj.rollouts.starting import Starting
        from falaj.serving.rolloutreleases import RolloutReleases

        class Traffic(ServedTraffic):
            def quarantine(self, call: Call, model: str, version: int, reason: str) -> None:
                """Left out; see above."""

        made = platform.premises
        self.made, self.verdict = made, Verdict()
        releases = platform._releases()
        approvals = ours._Approvals(platform.approved)
        traffic = Traffic(releases, RolloutReleases(releases, made.serving.routing, approvals))
        following = Following(
            traffic, made.changes, made.alerts, made.incidents, made.promotions, made.registry
        )
        self.starting = Starting(made.definitions, made.changes, traffic, lambda *_: None)
        self.engine = Engine(made.calls, self.verdict, traffic, following, NoRequests())

    def begin(self, rollout: Rollout) -> None:
        """Let the challenger serve its half."""
        with self.made.calls.opened("bench.begin", "user:bench") as call:
            change = self.starting.ask(call, rollout.name, "It is measured.")
        with self.made.calls.opened("bench.begin", "user:other") as call:
            self.starting.begin(call, change)
            self.made.changes.reject(call, change.id, "It was begun by the benchmark itself.")


def once(bench: Bench, rollout: Rollout, port: int, head: str, row: dict[str, float]) -> Times:
    """One rollback."""
    from falaj.rollouts import runs
    from falaj.serving.layers import Shares

    bench.begin(rollout)
    with bench.made.database.reading() as connection:
        run = runs.newest(connection, rollout.name)
    if run is None:
        raise LookupError(rollout.name)
    shares = Shares(run.id, (0.5,), (0.5,))
    units = [one for one in map(str, range(400)) if shares.challenger_of(one) == 0]
    watch = Watch(port, head, units, row)
    threads = [threading.Thread(target=watch.ask) for _ in range(WATCHERS)]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + 60
    while time.monotonic() < patience and sum(one == "tried" for _, one in list(watch.seen)) < 50:
        time.sleep(0.05)
    while not bench.engine.run_once():  # it is due a second after its start
        time.sleep(0.05)
    ended = time.perf_counter()
    time.sleep(0.5)
    watch.stopped.set()
    for thread in threads:
        thread.join()
    said = bench.verdict.said_at
    tried = [sent for sent, variant in watch.seen if variant == "tried"]
    after = [sent for sent, variant in watch.seen if variant != "tried" and sent > said]
    if not tried or min(tried) > said or not after:
        told = f"{len(tried)} of {len(watch.seen)} answers, {watch.errors} errors"
        raise RuntimeError(f"the challenger was not rolled back while it served: {told}")
    return Times(max(0.0, max(tried) - said), ended - said, watch.errors, len(watch.seen))


@dataclass(frozen=True)
class Times:
    """Seconds from the verdict on."""

    switched: float
    done: float
    errors: int
    answers: int


def measure(folder: Path, *, times: int) -> list[Row]:
    """Roll back again and again under load; the rows of the table."""
    from falaj.rollouts.model import Challenger, Rollout, Stage
    from falaj.serving.model import Endpoint, FieldType, RequestField

    server_core, client_core = cores()
    classifier = make_classifier(folder)
    with ours.opened(folder / "ours") as platform:
        ours.in_the_body(platform, classifier)
        platform.keep(classifier, "bench", 2)
        fields = tuple(RequestField(name=one, type=FieldType.FLOAT) for one in NAMES)
        who = RequestField(name="who", type=FieldType.STRING, nullable=True)
        rollout = Rollout(
            name="bench-rollout", endpoint="bench",
            challengers=(Challenger(name="tried", version=2, share=0.5),),
            stages=(Stage(share=0.5),), look_every=timedelta(seconds=1),
        )  # fmt: skip
        platform.declare(
            Endpoint(name="bench", model="bench", fields=(*fields, who), unit="who"), rollout
        )
        platform.activate(platform.deploy("bench"))
        head = platform.bearer()
        asked = [
            request(
                PATH,
                {"inputs": [{**dict(zip(NAMES, one, strict=True)), "who": f"load-{place}"}]},
                headers=head,
            )
            for place, one in enumerate(classifier.rows.tolist())
        ]
        row = dict(zip(NAMES, classifier.rows[0].tolist(), strict=True))
        bench, found = Bench(platform), []
        with ours.worker(platform, asked[0], core=server_core, workers=2) as server:
            os.sched_setaffinity(0, {client_core})
            load = Load(server.port, asked, core=client_core)
            busy = threading.Thread(target=load.run, args=(CONNECTIONS, 4.0 * times + 2))
            busy.start()
            for _ in range(times):
                found.append(once(bench, rollout, server.port, platform.bearer(), row))
            busy.join()
    return _rows(found)


def _rows(found: list[Times]) -> list[Row]:
    told = {"client": client_name()}
    n = sum(one.answers for one in found)
    size = f"{len(found)} rollbacks, 2 workers, {n:,} answers watched"
    work = "rollback under full load: decision to switched traffic"
    worst = max(one.switched for one in found)
    errors = sum(one.errors for one in found)
    return [
        Row(work, size, "ms, median", median([one.switched for one in found]) * 1e3,
            versions=told),
        Row(work, size, "ms, slowest", worst * 1e3, goal="≤ 1,000 ms",
            met=worst <= GOAL_SECONDS, versions=told),
        Row("rollback under full load: decision to the end of all records", size, "ms, median",
            median([one.done for one in found]) * 1e3, versions=told),
        Row("rollback under full load: errors", size, "answers", errors, goal="0",
            met=errors == 0, versions=told),
    ]  # fmt: skip


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), times=3 if given.size == "small" else 20)
    report("monitoring", "Rolling a challenger back under load", rows, given)


if __name__ == "__main__":
    main()
