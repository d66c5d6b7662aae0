from __future__ import annotations

import gc
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.errors import Corrupt
from falaj.serving.model import Release
from falaj.serving.plans import Plans
from falaj.serving.routing import RoutingTable
from falaj.testing.serving import make_release


class Body:
    """What a request holds."""


def test_a_release_that_cannot_be_loaded_holds_no_request(tmp_path: Path) -> None:
    compiler: Any = None
    plans = Plans(RoutingTable(tmp_path), compiler)
    plans.broken = {"fraud": Corrupt("Its bundle is damaged.")}
    held: list[weakref.ref[Body]] = []

    def asked(body: Body) -> None:
        held.append(weakref.ref(body))
        plans.named("fraud")

    for _ in range(3):
        with pytest.raises(Corrupt, match="damaged"):
            asked(Body())
    gc.collect()
    assert [one() for one in held] == [None] * 3


class Counting:
    """A compiler of plans that only know their release; counts what it compiled."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def compile(self, release: Release) -> Any:
        self.compiled.append(release.id)
        return Plan(release)


class Plan:
    assigner = None

    def __init__(self, release: Release) -> None:
        self.release = release


class Endpoint:
    """An endpoint of three releases, and a worker's plans for it."""

    def __init__(self, folder: Path, *, keep_seconds: float) -> None:
        self.table = RoutingTable(folder)
        self.compiler: Any = Counting()
        self.plans = Plans(self.table, self.compiler, keep_seconds=keep_seconds)
        for number in (1, 2, 3):
            self.table.write(make_release(f"release_{number}"))

    def serve(self, *numbers: int) -> list[str]:
        """Switch to one after the other; what was compiled."""
        self.compiler.compiled.clear()
        for number in numbers:
            self.table.flip("delays", f"release_{number}")
            self.plans.catch_up()
        return list(self.compiler.compiled)


def test_the_release_that_served_before_is_not_loaded_again_for_a_rollback(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path, keep_seconds=60)
    assert endpoint.serve(1, 2) == ["release_1", "release_2"]
    assert endpoint.serve(1, 2, 1) == []
    assert endpoint.plans.active["delays"].release.id == "release_1"


def test_only_one_release_is_kept_for_a_rollback(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path, keep_seconds=60)
    endpoint.serve(1, 2, 3)
    assert sorted(endpoint.plans.prepared()) == ["release_2", "release_3"]


def test_what_served_before_is_let_go_when_its_time_is_over(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path, keep_seconds=0.05)
    endpoint.serve(1, 2)
    assert "release_1" in endpoint.plans.prepared()
    time.sleep(0.06)
    endpoint.plans.forget()
    assert list(endpoint.plans.prepared()) == ["release_2"]
    assert endpoint.serve(1) == ["release_1"]


def test_an_endpoint_that_serves_nothing_any_more_keeps_nothing(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path, keep_seconds=60)
    endpoint.serve(1, 2)
    endpoint.table.flip("delays", None)
    endpoint.plans.catch_up()
    assert endpoint.plans.prepared() == {}
