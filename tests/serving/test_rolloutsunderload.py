"""Real workers under load while shares change: nothing fails, nothing is stale, all is logged."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import httpx
import pytest
from tests.serving.machines import FIELDS, HEADERS, Asked, Machine, machine_of

from falaj.serving.model import Variant
from falaj.serving.splits import Assignment
from falaj.testing.serving import make_release

N_SWITCHES = 20
RELEASE = make_release(
    fields=FIELDS,
    unit="who",
    variants=(
        Variant(model="delay", version=1, bundle="sha256:a"),
        Variant(name="new", model="delay", version=2, bundle="sha256:b", share=0.0),
    ),
    assignment=Assignment(salt="rol_1", final={"new": 1.0}),
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, programs: ModuleType) -> Iterator[Machine]:
    with machine_of(tmp_path_factory.mktemp("machine"), programs, RELEASE) as made:
        yield made


def test_shares_that_change_under_load_fail_nothing_and_leave_no_answer_stale(
    machine: Machine,
) -> None:
    spans = []
    with machine.loaded():
        for switch in range(N_SWITCHES):
            share = float(switch % 2)
            since = machine.divided(share)
            time.sleep(0.12)
            spans.append((since, time.time(), "new" if share else "champion"))
    asked = list(machine.asked)
    assert {one.status for one in asked} == {200}
    checked = Counter(
        one.variant == variant
        for since, until, variant in spans
        for one in asked
        if since < one.begun and one.ended < until
    )
    assert checked[False] == 0
    assert checked[True] > 5 * N_SWITCHES


def test_a_worker_that_was_suspended_while_shares_changed_asks_no_challenger_any_more(
    machine: Machine,
) -> None:
    worker, url = machine.workers[0], machine.urls[0]
    with httpx.Client(headers=HEADERS, timeout=20) as client:
        machine.divided(1.0)
        assert machine.ask(client, url, "before").variant == "new"
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            sent: list[Asked] = []
            early = threading.Thread(target=lambda: sent.append(machine.ask(client, url, "early")))
            early.start()
            time.sleep(0.1)  # it has reached the socket of the worker, which cannot read it
            began = time.monotonic()
            machine.divided(0.0)
            assert time.monotonic() - began < 1  # it waits for no worker
            with httpx.Client(headers=HEADERS, timeout=20) as other:
                assert machine.ask(other, machine.urls[1], "meanwhile").variant == "champion"
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        early.join(20)
        assert [one.variant for one in sent] == ["champion"]
        for number in range(20):
            assert machine.ask(client, url, f"after{number}").variant == "champion"


def test_every_request_stands_in_the_log_once_with_the_variant_that_answered_it(
    machine: Machine, programs: ModuleType
) -> None:
    rows = machine.logged(programs, ["prediction_id", "variant", "version"])
    logged = [(row["prediction_id"], row["variant"]) for row in rows]
    assert sorted(logged) == sorted((one.id, one.variant) for one in machine.asked)
    assert {(row["variant"], row["version"]) for row in rows} == {
        ("champion", 1),
        ("new", 2),
    }
