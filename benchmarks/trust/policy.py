"""What a policy decision costs with 100 policies and 1,000 entities, and whether it is Cedar's.

Questions are drawn at random over every action of the platform, 500 principals and 500 assets.
The floor of a remembered decision is a look into a dictionary with the same key; that of a new
one is Cedar itself with the same handle of all policies. ``--size full`` asks 100,000.
"""

from __future__ import annotations

import gc
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, quantile, report

from falaj.kernel.clock import SetClock
from falaj.testing.policies import Asked, CedarsOwn, Dice, added_policies
from falaj.trust.policy import CedarPolicy
from falaj.wiring.services import service_classes

POLICIES, ENVIRONMENT = 100, "production"
QUESTIONS = {"small": 5_000, "full": 100_000}
WARM_US, P99_US, COLD_US = 2, 50, 150
VERSIONS = {"cedarpy": version("cedarpy")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    clock = SetClock(datetime(2026, 11, 30, 12, tzinfo=UTC))
    actions = [one for service in service_classes().values() for one in service.actions()]
    n_built_in = len(CedarPolicy(actions)._prepared.by_id)
    policy = CedarPolicy(
        actions, added=added_policies(POLICIES - n_built_in), environment=ENVIRONMENT, clock=clock
    )
    if len(policy._prepared.by_id) != POLICIES:
        sys.exit("there are not 100 policies")
    own = CedarsOwn(policy, clock, environment=ENVIRONMENT)
    dice = Dice(7, [one.name for one in actions], clock)
    questions = [dice.question() for _ in range(QUESTIONS[given.size])]
    for item in policy._actions.values():
        for principal_type in ("User", "Service", "System"):
            policy._prepared.slice_for(item, principal_type)  # once in a process's life
    stands = f"{POLICIES} policies, 1,000 entities, {len(questions):,} questions"
    cold = timed(policy, questions)
    floor, differing = differences(policy, own, questions)
    few = questions[:2_000]
    timed(policy, few)
    warm = [one for _ in range(5) for one in timed(policy, few)]
    report(
        "trust",
        "Policy decisions",
        [
            told("decision, remembered, p50", stands, median(warm), WARM_US, remembered(few)),
            told("decision, remembered, p99", stands, quantile(warm, 0.99), P99_US),
            told("decision, new, p50", stands, median(cold), COLD_US, floor),
            told("decision, new, p99", stands, quantile(cold, 0.99), None),
            Row(
                "decisions unlike Cedar's own",
                stands,
                "questions",
                differing,
                goal="0",
                met=differing == 0,
                versions=VERSIONS,
            ),
        ],
        given,
    )


def told(work: str, stands: str, us: float, goal: float | None, floor: float | None = None) -> Row:
    return Row(
        work, stands, "µs", us, floor=floor,
        goal=f"≤ {goal} µs" if goal else "", met=us <= goal if goal else None, versions=VERSIONS,
    )  # fmt: skip


def timed(policy: CedarPolicy, questions: list[Asked]) -> list[float]:
    """Microseconds of each decision."""
    took = []
    gc.disable()
    for caller, action, resource, stepped_up in questions:
        started = time.perf_counter_ns()
        policy.decide(caller, action, resource, stepped_up=stepped_up)
        took.append((time.perf_counter_ns() - started) / 1e3)
    gc.enable()
    return took


def remembered(questions: list[Asked]) -> float:
    """Microseconds of a look into a dictionary with such a key."""
    keys = [
        (who.principal.id, who.principal.roles, action, what.ref.kind, what.ref.key,
         tuple(what.attributes.items()), fresh, who.purpose)
        for who, action, what, fresh in questions
    ]  # fmt: skip
    kept = dict.fromkeys(keys, 1)
    took = []
    for key in keys:
        started = time.perf_counter_ns()
        kept.get(key)
        took.append((time.perf_counter_ns() - started) / 1e3)
    return median(took)


def differences(policy: CedarPolicy, own: CedarsOwn, questions: list[Asked]) -> tuple[float, int]:
    """Median microseconds of Cedar alone, and how many answers differ from its own."""
    took, differing = [], 0
    for asked in questions:
        caller, action, resource, stepped_up = asked
        started = time.perf_counter_ns()
        allowed, reasons = own.answer(asked)
        took.append((time.perf_counter_ns() - started) / 1e3)
        ours = policy.decide(caller, action, resource, stepped_up=stepped_up)
        differing += ours.allowed is not allowed or ours.reasons != (
            reasons or ("no-policy-permits",)
        )
    return median(took), differing


if __name__ == "__main__":
    main()
