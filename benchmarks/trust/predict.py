"""All security work on one prediction: who asks, may he, is the key his, and the record of it.

A thousand programs with tokens that are bound to certificates ask one endpoint; their tokens
are known (a new one costs what ``identity.py`` says). For each request, in CPU time of the
thread: the token and its certificate, the decision of the policy, the look at the remembered
admission, and the record in the prediction log. A worker does the first two twice a second
for each caller and endpoint; here they are done for each request. The floor of the whole
request is the same request without any of it: parsed, scored, answered, not recorded.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from measuring import Row, arguments, median, quantile, report
from plan import json_bodies, model_of
from stand import ours
from stand.classifier import make_classifier
from stand.processes import cores

from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.ports import Resource
from falaj.serving.admission import PREDICT, Admission
from falaj.serving.credentials import Credentials
from falaj.trust.bindings import Binding, BindingKind, Presented, digest_text

GOAL_US = 25
CALLERS = 1_000


class Stage:
    """The objects of a worker that a request meets, and the requests."""

    def __init__(self, platform: ours.Platform, bodies: list[bytes]) -> None:
        premises = platform.premises
        serving = premises.serving
        self.release = serving.routing.release(serving.routing.active()[1]["bench"])
        self.plan = serving.plan_compiler.compile(self.release)
        self.bodies = bodies
        self.tokens, self.clock, self.policy = premises.tokens, premises.clock, premises.policy
        self.log = serving._log(serving._ring())
        self.log.start()
        self.resource = Resource(AssetRef("endpoint", "bench"), self.release.attributes)
        never: Any = None
        self.admission = Admission(premises.verifier, premises.policy, never)
        self.asked: list[Credentials] = []
        for number in range(CALLERS):
            shown = digest_text(hashlib.sha256(str(number).encode()).digest())
            token, _ = self.tokens.issue(
                Principal(f"service:bench{number}", PrincipalKind.SERVICE, ("service",)),
                session=f"session_{number}",
                account_epoch=0,
                mfa_at=None,
                now=self.clock.now(),
                binding=Binding(BindingKind.CERTIFICATE, shown),
            )
            self.asked.append(Credentials(f"Bearer {token}".encode(), shown))
        for credentials in self.asked:  # as after the first request of each
            caller = self.who(credentials)
            self.may(caller)
            kept = (time.perf_counter() + 3600, caller.principal.id)
            self.admission._kept[credentials, "bench"] = kept

    def who(self, credentials: Credentials) -> Caller:
        """The caller, of a known token that is held against its certificate."""
        token = credentials.authorization[7:].decode("ascii")
        presented = Presented(certificate=credentials.certificate)
        return self.tokens.verify(token, self.clock.now(), presented)

    def may(self, caller: Caller) -> None:
        """The decision of the policy."""
        if not self.policy.decide(caller, PREDICT, self.resource, stepped_up=False).allowed:
            raise RuntimeError("the benchmark's caller may not predict")

    def remembered(self, credentials: Credentials) -> str:
        """The admission of a moment ago."""
        found = self.admission.remembered(credentials, "bench", time.perf_counter())
        if found is None:
            raise RuntimeError("the admission is not remembered")
        return found

    def scored(self, number: int, caller: str) -> Any:
        """The request itself: parsed, scored, answered."""
        parsed = self.plan.parse(
            self.bodies[number % len(self.bodies)], caller=caller, started=time.perf_counter()
        )
        return self.plan.score([parsed])[1]


def each(n: int, work: Callable[[int], object]) -> list[float]:
    """CPU microseconds of each call."""
    for number in range(200):
        work(number)
    gc.collect()
    taken = []
    for number in range(n):
        began = time.thread_time_ns()
        work(number)
        taken.append((time.thread_time_ns() - began) / 1e3)
    return taken


def measured(stage: Stage, n: int) -> Iterator[Row]:
    """The rows of the table."""
    asked = stage.asked
    scored = [stage.scored(number, "service:bench") for number in range(CALLERS)]
    callers = [stage.who(one) for one in asked]

    def record(number: int) -> None:
        for part in scored[number % CALLERS]:
            stage.log.append(part)

    def security(number: int) -> None:
        credentials = asked[number % CALLERS]
        stage.may(stage.who(credentials))
        stage.remembered(credentials)
        record(number)

    parts: dict[str, Callable[[int], object]] = {
        "known token, held against its certificate": lambda k: stage.who(asked[k % CALLERS]),
        "decision of the policy": lambda k: stage.may(callers[k % CALLERS]),
        "remembered admission": lambda k: stage.remembered(asked[k % CALLERS]),
        "record in the prediction log": record,
    }
    whole = each(n, security)
    size = f"{CALLERS:,} callers, {n:,} requests"
    p50 = median(whole)
    yield Row("security of one predict, p50", size, "µs CPU", p50, goal=f"≤ {GOAL_US} µs",
              met=p50 <= GOAL_US)  # fmt: skip
    yield Row("security of one predict, p99", size, "µs CPU", quantile(whole, 0.99))
    for name, work in parts.items():
        yield Row(f"of it: {name}, p50", size, "µs CPU", median(each(n, work)))

    def secured(number: int) -> None:
        credentials = asked[number % CALLERS]
        stage.may(stage.who(credentials))
        for part in stage.scored(number, stage.remembered(credentials)):
            stage.log.append(part)

    bare, ours_ = [], []
    for _ in range(5):  # in turn: what else the machine does hits both
        bare += each(n // 5, lambda number: stage.scored(number, "service:bench"))
        ours_ += each(n // 5, secured)
    yield Row("whole request without HTTP, p50", size, "µs CPU", median(ours_),
              floor=median(bare))  # fmt: skip


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    os.sched_setaffinity(0, {cores()[0]})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classifier = make_classifier(folder)
        with ours.opened(folder / "ours") as platform:
            ours.in_the_body(platform, classifier)
            stage = Stage(platform, json_bodies(classifier.rows, 1))
            if hasattr(model_of(stage.plan), "compile"):
                model_of(stage.plan).compile()
            try:
                rows = list(measured(stage, 5_000 if given.size == "small" else 50_000))
            finally:
                stage.log.stop()
    report("trust", "Security of one prediction", rows, given)


if __name__ == "__main__":
    main()
