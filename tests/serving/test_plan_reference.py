"""The compiled plan against a reference that is slow and obvious: one row at a time, by names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from falaj.kernel.errors import FalajError
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import BadRequest
from falaj.serving.logged import columnar, decoded, encoded, logged
from falaj.serving.model import (
    FieldType,
    MissingPolicy,
    Release,
    RequestField,
    ServableModel,
    Variant,
)
from falaj.serving.predictions import NumberRows
from falaj.testing.serving import MemoryBundles, make_release

WORDS = ("low", "middle", "high")
FIELDS = {"a": FieldType.FLOAT, "b": FieldType.INT, "c": FieldType.BOOLEAN, "d": FieldType.STRING}
STORE = {"k0": (1.5, 2.5), "k1": (None, -1.0), "k2": (0.25, None)}
"""What the feature store knows: two features of three entities."""
FEATURES = ("view__x", "view__y")


class Weighted:
    """A model that can be computed by hand: a weighted sum, a missing value counts 1000."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights
        self.n_inputs = len(weights)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        return np.array([[by_hand(row, self.weights)] for row in rows.tolist()])


def by_hand(row: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(
        w * (1000.0 if math.isnan(v) else v) for v, w in zip(row, weights, strict=True)
    )


class WeightedRuntime:
    formats = ("weighted",)

    def load(self, model: ServableModel) -> Weighted:
        return Weighted(json.loads(model.model))


class Store:
    """Fulfils FeatureReaders from ``STORE``, by the key ``entity``."""

    names = FEATURES
    asks_nothing = False

    def compile(self, document: Mapping[str, Any], categories: Mapping[str, Any]) -> Store:
        return self

    def read(self, rows: Sequence[Mapping[str, Any]], at_us: int) -> tuple[Any, Any, Any]:
        found = [STORE.get(row.entity, (None, None)) for row in rows]
        values = np.array(found, dtype=np.float64).astype(np.float32)
        statuses = np.where(np.isnan(values), 3, 0).astype(np.uint8)
        return values, statuses, np.full(values.shape, 7, np.int64)


def column(name: str, row: Mapping[str, Any]) -> float:
    """One input of the model, as the definitions say it is made."""
    if name in FEATURES:
        value = STORE.get(row["entity"], (None, None))[FEATURES.index(name)]
    elif name == "d":
        value = WORDS.index(row["d"]) if row.get("d") in WORDS else None
    else:
        value = row.get(name)
    return math.nan if value is None else float(np.float32(value))


def reference(release: Release, models: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What one row comes to."""
    where = position(release.endpoint, row[release.unit]) if release.unit else 0.0
    variant = release.variants[assigned(bounds([v.share for v in release.variants]), where)]
    inputs, weights = models[variant.bundle]
    absent = [n for n in inputs if n in FEATURES and math.isnan(column(n, row))]
    if release.missing is MissingPolicy.REFUSE and absent:
        return {"lacking": absent}
    told = {"score": by_hand([column(name, row) for name in inputs], weights)}
    if len(release.variants) > 1:
        told |= {"variant": variant.name, "model": variant.label}
    return told


VALUES = {
    "a": st.floats(-1e6, 1e6, width=32),
    "b": st.integers(-(2**40), 2**40),
    "c": st.booleans(),
    "d": st.sampled_from([*WORDS, "unheard of", ""]),
}
WEIGHTS = st.floats(-8, 8, width=16)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Release, dict[str, Any], list[list[dict[str, Any]]]]:
    """A release, its models and some requests of some rows."""
    features = draw(st.booleans())
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, unique=True))
    optional = set(draw(st.lists(st.sampled_from(names), unique=True)))
    n_variants = draw(st.integers(1, 3))
    models: dict[str, Any] = {}
    for number in range(n_variants):
        inputs = draw(st.permutations([*names, *(FEATURES if features else ())]))
        kept = inputs[: draw(st.integers(1, len(inputs)))]
        models[f"sha256:{number}"] = (
            tuple(kept),
            draw(st.lists(WEIGHTS, min_size=len(kept), max_size=len(kept))),
        )
    fields = [
        RequestField(
            name=name, type=FIELDS[name], required=name not in optional, nullable=name in optional
        )
        for name in names
    ]
    fields.append(RequestField(name="entity", type=FieldType.STRING))
    shares = draw(st.lists(st.integers(1, 5), min_size=n_variants, max_size=n_variants))
    release = make_release(
        fields=tuple(fields),
        variants=tuple(
            Variant(name=f"v{n}", model="m", version=n + 1, bundle=f"sha256:{n}", share=share)
            for n, share in enumerate(share / sum(shares) for share in shares)
        ),
        unit="entity" if n_variants > 1 else None,
        features={} if features else None,
        feature_service="view" if features else None,
        missing=draw(st.sampled_from(MissingPolicy)),
    )  # fmt: skip

    def row() -> dict[str, Any]:
        made: dict[str, Any] = {"entity": draw(st.sampled_from(["k0", "k1", "k2", "nobody"]))}
        for name in names:
            if name in optional and draw(st.booleans()):
                if draw(st.booleans()):
                    made[name] = None
            else:
                made[name] = draw(VALUES[name])
        return made

    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    return release, models, [[row() for _ in range(size)] for size in sizes]


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_the_plan_answers_and_logs_what_the_reference_says_for_every_row(
    world: tuple[Release, dict[str, Any], list[list[dict[str, Any]]]],
) -> None:
    release, models, requests = world
    bundles = MemoryBundles(
        {
            digest: ServableModel(
                "weighted",
                json.dumps(weights).encode(),
                inputs,
                categories={"d": WORDS} if "d" in inputs else {},
            )
            for digest, (inputs, weights) in models.items()
        }
    )
    plan = PlanCompiler(bundles, [WeightedRuntime()], Store()).compile(release)  # type: ignore[list-item,arg-type]
    parsed = [
        plan.parse(json.dumps({"inputs": rows}).encode(), caller="user:a", started=0.0)
        for rows in requests
    ]
    answers, parts = plan.score(parsed)
    wanted_in_log: dict[str, float] = {}
    for rows, answer in zip(requests, answers, strict=True):
        wanted = [reference(release, models, row) for row in rows]
        if any("lacking" in one for one in wanted):
            assert isinstance(answer, FalajError)
            lacking = {name for one in wanted for name in one.get("lacking", ())}
            assert set(answer.details["features"]) == lacking
            continue
        assert isinstance(answer, bytes)
        told = json.loads(answer)["predictions"]
        for got, want in zip(told, wanted, strict=True):
            wanted_in_log[got.pop("id")] = want["score"]
            assert got.pop("score") == want.pop("score")
            assert got == want
    if parts:
        kept = columnar([decoded(encoded(logged(part))) for part in parts])  # as through a ring
        assert str(kept.to_pylist()) == str(columnar([logged(part) for part in parts]).to_pylist())
        rows_kept = kept.to_pylist()
        assert {row["prediction_id"]: row["score"] for row in rows_kept} == wanted_in_log
    else:
        assert wanted_in_log == {}


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_rows_come_to_the_same_alone_and_together(
    world: tuple[Release, dict[str, Any], list[list[dict[str, Any]]]],
) -> None:
    release, models, requests = world
    release = release.model_copy(update={"missing": MissingPolicy.MODEL})
    bundles = MemoryBundles(
        {
            digest: ServableModel(
                "weighted",
                json.dumps(weights).encode(),
                inputs,
                categories={"d": WORDS} if "d" in inputs else {},
            )
            for digest, (inputs, weights) in models.items()
        }
    )
    plan = PlanCompiler(bundles, [WeightedRuntime()], Store()).compile(release)  # type: ignore[list-item,arg-type]

    def scores(asked: list[list[dict[str, Any]]]) -> list[float]:
        parsed = [
            plan.parse(json.dumps({"inputs": rows}).encode(), caller="u", started=0.0)
            for rows in asked
        ]
        answers, _ = plan.score(parsed)
        return [
            row["score"]
            for answer in answers
            for row in json.loads(answer)["predictions"]  # type: ignore[arg-type]
        ]

    flat = [row for rows in requests for row in rows]
    assert scores(requests) == [score for row in flat for score in scores([[row]])]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from("pqrs"), min_size=1, unique=True),
    st.integers(1, 5),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_a_matrix_of_numbers_comes_to_what_the_same_rows_in_json_come_to(
    names: list[str], n_inputs: int, sizes: list[int], random: Any
) -> None:
    inputs = tuple(random.sample(names, min(n_inputs, len(names))))
    weights = [random.uniform(-2, 2) for _ in inputs]
    nullable = {name: random.random() < 0.5 for name in names}
    release = make_release(
        fields=tuple(
            RequestField(name=name, type=FieldType.FLOAT, nullable=nullable[name]) for name in names
        )
    )
    model = ServableModel("weighted", json.dumps(weights).encode(), inputs)
    plan = PlanCompiler(MemoryBundles({"sha256:a": model}), [WeightedRuntime()], None).compile(  # type: ignore[list-item]
        release
    )

    def value(name: str) -> float | None:
        if nullable[name] and random.random() < 0.3:
            return None
        return float(np.float32(random.uniform(-9, 9)))

    requests = [[{name: value(name) for name in names} for _ in range(n)] for n in sizes]
    in_json = [
        plan.parse(json.dumps({"inputs": rows}).encode(), caller="u", started=0.0)
        for rows in requests
    ]
    as_numbers = [
        plan.parse_columns(
            {name: np.array([row[name] for row in rows], dtype=np.float32) for name in names},
            caller="u",
            started=0.0,
        )
        for rows in requests
    ]
    assert all(isinstance(one.rows, NumberRows) for one in as_numbers)
    mixed = [one if place % 2 else other for place, (one, other) in enumerate(
        zip(in_json, as_numbers, strict=True)
    )]  # fmt: skip
    told = []
    for asked in (in_json, as_numbers, mixed):
        answers, parts = plan.score(asked)
        kept = columnar([decoded(encoded(logged(part))) for part in parts]).to_pylist()
        scores = [
            row["score"]
            for answer in answers
            for row in json.loads(answer)["predictions"]  # type: ignore[arg-type]
        ]
        assert [row["score"] for row in kept] == scores
        told.append((scores, [(row["fields"], str(row["features"])) for row in kept]))
    assert told[0] == told[1] == told[2]


def test_a_matrix_with_a_number_that_no_float32_holds_is_refused_with_its_place() -> None:
    release = make_release()
    model = ServableModel("weighted", b"[1, 1, 1]", ("a", "b", "c"))
    plan = PlanCompiler(MemoryBundles({"sha256:a": model}), [WeightedRuntime()], None).compile(  # type: ignore[list-item]
        release
    )
    for wrong in (np.inf, -np.inf, np.nan, 1e39):
        matrix = np.zeros((3, 3))
        matrix[2, 1] = wrong
        with pytest.raises(BadRequest, match=r"Row 2 has .* in the field 'b'"):
            plan.decoder.matrix(matrix, caller="u", started=0.0)
