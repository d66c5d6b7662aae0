"""Variants of one release that read features: once where they read the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.model import FieldType, RequestField, Variant
from falaj.serving.plan import RequestPlan
from falaj.testing.serving import MemoryBundles, make_release, servable


class Halves:
    """Readers whose features are the key and its half; each notes how many rows it read."""

    names = ("key", "half")
    asks_nothing = False

    def __init__(self) -> None:
        self.compiled: list[Mapping[str, Any]] = []
        self.runs: list[int] = []

    def compile(self, document: Mapping[str, Any], categories: Mapping[str, Any]) -> Halves:
        self.compiled.append(categories)
        made = Halves()
        made.runs = self.runs
        return made

    def read(self, rows: Sequence[Any], at_us: Any) -> tuple[Any, Any, Any]:
        self.runs.append(len(rows))
        keys = np.array([np.nan if row.card is None else row.card for row in rows], np.float32)
        values = np.stack([keys, keys / 2], axis=1)
        return values, np.zeros(values.shape, np.uint8), np.zeros(values.shape, np.int64)


def compiled(readers: Halves, *categories: Mapping[str, tuple[str, ...]]) -> RequestPlan:
    bundles = MemoryBundles(
        {
            f"sha256:{number}": servable(number, ("half", "key"), categories=words)
            for number, words in enumerate(categories)
        }
    )
    share = 1 / len(categories)
    release = make_release(
        fields=(RequestField(name="card", type=FieldType.INT),),
        variants=tuple(
            Variant(name=f"v{n}", model="m", version=n + 1, bundle=f"sha256:{n}", share=share)
            for n in range(len(categories))
        ),
        unit="card",
        features={},
        feature_service="halves",
    )
    plan = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], readers).compile(release)  # type: ignore[arg-type]
    readers.runs.clear()
    return plan


def scored(plan: RequestPlan, n: int) -> list[Any]:
    bodies = [json.dumps({"inputs": [{"card": card}]}).encode() for card in range(n)]
    parsed = [plan.parse(body, caller="user:a", started=0.0) for body in bodies]
    _, parts = plan.score(parsed)
    return parts


def test_variants_that_read_the_same_have_it_read_once_for_all_their_rows() -> None:
    readers = Halves()
    parts = scored(compiled(readers, {}, {}), 20)
    assert readers.runs == [20]
    assert len(parts) == 2
    for part in parts:
        for row, inputs in zip(part.rows, part.vectors.matrix.tolist(), strict=True):
            assert inputs == [row.card / 2, row.card]
        assert part.vectors.begun <= part.vectors.read <= part.vectors.ran


def test_variants_that_know_other_words_read_for_themselves() -> None:
    readers = Halves()
    parts = scored(compiled(readers, {}, {"half": ("low", "high")}), 20)
    assert sorted(readers.runs) == sorted(len(part.rows) for part in parts)
    assert {"half": ("low", "high")} in readers.compiled


def test_each_row_of_a_variant_keeps_the_instant_that_its_request_is_about() -> None:
    plan = compiled(Halves(), {}, {})
    parsed = []
    for card in range(20):
        body = {"inputs": [{"card": card}], "at": f"2026-11-01T00:00:{card % 3:02}Z"}
        parsed.append(plan.parse(json.dumps(body).encode(), caller="user:a", started=0.0))
    _, runs = plan.score(parsed)
    assert len(runs) == 2
    parts = [part for run in runs for part in run.by_instant()]
    assert len(parts) == 6
    for part in parts:
        assert {owner.at_us for owner in part.owners} == {part.at_us}
        for row, inputs in zip(part.rows, part.vectors.matrix.tolist(), strict=True):
            assert inputs == [row.card / 2, row.card]
    assert sorted(row.card for part in parts for row in part.rows) == list(range(20))
    assert len({one for part in parts for one in part.ids}) == 20
