"""Shadows and interleaved rollouts with real workers under load."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from types import ModuleType

from tests.serving.machines import FIELDS, N_CLIENTS, machine_of

from falaj.serving.model import Variant
from falaj.serving.splits import Assignment
from falaj.testing.serving import make_release

CHAMPION = Variant(model="delay", version=1, bundle="sha256:a")
SECONDS = 3.0


def test_a_shadow_is_told_to_nobody_and_logged_beside_what_was_answered(
    tmp_path: Path, programs: ModuleType
) -> None:
    shadow = Variant(
        name="new", model="delay", version=2, bundle="sha256:b", share=0.0, shadow=True
    )
    release = make_release(
        fields=FIELDS, unit="who", variants=(CHAMPION, shadow),
        assignment=Assignment(salt="rol_1", final={"new": 1.0}),
    )  # fmt: skip
    with machine_of(tmp_path, programs, release) as machine:
        machine.divided(1.0)
        with machine.loaded():
            time.sleep(SECONDS)
        asked = list(machine.asked)
        rows = machine.logged(
            programs, ["prediction_id", "request_id", "variant", "version", "shadow"]
        )
    assert {(one.status, one.variant) for one in asked} == {(200, "")}  # no answer names a variant
    answered = [row for row in rows if not row["shadow"]]
    behind = [row for row in rows if row["shadow"]]
    assert sorted(row["prediction_id"] for row in answered) == sorted(one.id for one in asked)
    assert {(row["variant"], row["version"]) for row in behind} == {("new", 2)}
    # Where requests wait to be scored a shadow lets rows go; what it scored, it scored once.
    of_requests = Counter(row["request_id"] for row in behind)
    assert set(of_requests) <= {row["request_id"] for row in answered}
    assert set(of_requests.values()) == {1}
    assert len(behind) > 0.5 * len(answered)


def test_a_segment_meets_one_variant_a_period_in_all_workers_and_nobody_after_the_end(
    tmp_path: Path, programs: ModuleType
) -> None:
    challenger = Variant(name="new", model="delay", version=2, bundle="sha256:b", share=0.0)
    release = make_release(
        fields=FIELDS, unit="who", variants=(CHAMPION, challenger),
        assignment=Assignment(
            salt="rol_2", final={"new": 1.0}, segment="who", period=timedelta(seconds=1)
        ),
    )  # fmt: skip
    with machine_of(tmp_path, programs, release) as machine:
        machine.divided(1.0)
        with machine.loaded():
            time.sleep(8.0)
            ended = machine.divided(0.0)
            time.sleep(0.5)
        asked = list(machine.asked)
    assert {one.status for one in asked} == {200}
    met: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for one in asked:
        if one.ended < ended and int(one.begun) == int(one.ended):
            met[one.who, int(one.begun)][one.variant] += 1
    assert len(met) >= 6 * N_CLIENTS
    assert all(len(variants) == 1 for variants in met.values())
    assert {variant for variants in met.values() for variant in variants} == {"champion", "new"}
    after = {one.variant for one in asked if one.begun > ended}
    assert after == {"champion"}
