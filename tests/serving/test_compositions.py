from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.compositions import ComposedModel, described, opened
from falaj.serving.model import (
    Combination,
    Composition,
    Endpoint,
    FieldType,
    Member,
    PinnedMember,
    Release,
    RequestField,
    ServableModel,
    Variant,
)
from falaj.testing.serving import MemoryBundles, make_release, servable
from falaj.testing.smallmodels import lightgbm_booster

NAN = float("nan")


class Linear:
    """A model whose every number is plain to see: a weighted sum, missing values as 0."""

    def __init__(self, *weights: float) -> None:
        self.n_inputs = len(weights)
        self._weights = np.array(weights)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        return (np.nan_to_num(rows) @ self._weights).reshape(-1, 1)


def model(*inputs: str, **values: Any) -> ServableModel:
    return ServableModel("linear", b"", inputs, **values)


def variant(combine: Combination, *members: PinnedMember) -> Variant:
    first = members[0]
    return Variant(
        model=first.model,
        version=first.version,
        bundle=first.bundle,
        combine=combine,
        members=members,
    )


def pinned(name: str, **values: Any) -> PinnedMember:
    return PinnedMember(model=name, version=1, bundle=f"sha256:{name}", **values)


def composed(which: Variant, models: list[ServableModel], loaded: list[Linear]) -> ComposedModel:
    return ComposedModel(which, described(which, models), models, loaded)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=4),
    st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4),
)
def test_a_mean_is_the_weighted_mean_of_its_members_over_the_union_of_inputs(
    weights: list[float], row: list[float]
) -> None:
    names = [("a", "b"), ("b", "c"), ("d", "a"), ("c",)][: len(weights)]
    members = [pinned(f"m{place}", weight=weight) for place, weight in enumerate(weights)]
    which = variant(Combination.MEAN, *members)
    loaded = [Linear(*range(1, len(one) + 1)) for one in names]
    whole = composed(which, [model(*one) for one in names], loaded)
    union = list(dict.fromkeys(name for one in names for name in one))
    assert described(which, [model(*one) for one in names]).inputs == tuple(union)
    values = dict(zip("abcd", row, strict=True))
    wanted = sum(
        weight * sum(place * values[name] for place, name in enumerate(one, start=1))
        for weight, one in zip(weights, names, strict=True)
    ) / sum(weights)
    rows = np.array([[values[name] for name in union]], dtype=np.float32)
    assert whole.run(rows)[0, 0] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_in_a_chain_each_score_is_an_input_of_the_next_and_the_last_one_answers() -> None:
    which = variant(
        Combination.CHAIN, pinned("m0", gives="first"), pinned("m1", gives="second"), pinned("m2")
    )
    models = [model("a", "b"), model("first", "a"), model("second", "first", "c")]
    loaded = [Linear(1, 2), Linear(10, 1), Linear(100, 1, 1)]
    whole = composed(which, models, loaded)
    assert described(which, models).inputs == ("a", "b", "c")
    first = 1 + 2 * 2.0
    second = 10 * first + 1
    rows = np.array([[1, 2, 3], [1, 2, NAN]], dtype=np.float32)
    assert whole.run(rows).tolist() == [[100 * second + first + 3], [100 * second + first]]
    with pytest.raises(InvalidInput):
        whole.run(rows[:, :2])


def test_each_member_reads_words_by_its_own_list() -> None:
    which = variant(Combination.MEAN, pinned("m0"), pinned("m1"))
    models = [
        model("c", categories={"c": ("x", "y")}),
        model("c", categories={"c": ("z", "y", "x")}),
    ]
    described_ = described(which, models)
    assert described_.categories == {"c": ("x", "y", "z")}
    whole = composed(which, models, [Linear(1), Linear(10)])
    rows = np.array([[0], [1], [2], [NAN]], dtype=np.float32)  # x, y, z, unknown
    assert whole.run(rows)[:, 0].tolist() == [(0 + 20) / 2, (1 + 10) / 2, (0 + 0) / 2, 0]


@pytest.mark.parametrize(
    ("members", "models", "why"),
    [
        (
            [pinned("m0"), pinned("m1")],
            [model("c", categories={"c": ("x",)}), model("c")],
            "word for one",
        ),
        ([pinned("m0"), pinned("m1")], [model("a"), model("a", outputs=("x", "y"))], "2 numbers"),
        ([pinned("m0", gives="n"), pinned("m1")], [model("a"), model("b")], "No later member"),
        ([pinned("m0", gives="a"), pinned("m1")], [model("a"), model("a")], "before"),
        (
            [pinned("m0", gives="n"), pinned("m1")],
            [model("a"), model("n", categories={"n": ("x",)})],
            "as a word",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(
    members: list[PinnedMember], models: list[ServableModel], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        described(variant(Combination.CHAIN, *members), models)


@pytest.mark.parametrize(
    ("combine", "members"),
    [
        ("mean", [{"model": "m"}]),
        ("mean", [{"model": "m"}, {"model": "m"}]),
        ("mean", [{"model": "m", "gives": "x"}, {"model": "n"}]),
        ("mean", [{"model": "m", "weight": 0}, {"model": "n"}]),
        ("chain", [{"model": "m"}, {"model": "n"}]),
        ("chain", [{"model": "m", "gives": "x"}, {"model": "n", "gives": "y"}]),
        (
            "chain",
            [{"model": "m", "gives": "x"}, {"model": "n", "gives": "x"}, {"model": "o"}],
        ),
    ],
)
def test_a_composition_that_means_nothing_cannot_be_declared(combine: str, members: Any) -> None:
    with pytest.raises(ValidationError):
        Composition(combine=Combination(combine), members=members)


def test_an_endpoint_stands_under_one_of_its_members_and_refers_to_all() -> None:
    both = Composition(
        combine=Combination.MEAN, members=(Member(model="delay"), Member(model="weather"))
    )
    endpoint = Endpoint(name="delays", model="delay", composition=both)
    assert [ref.key for ref in endpoint.references()] == ["delay", "weather"]
    told = {k: v for k, v in json.loads(json.dumps(endpoint.document())).items() if k != "kind"}
    assert Endpoint.model_validate(told) == endpoint
    with pytest.raises(ValidationError, match="no member"):
        Endpoint(name="delays", model="other", composition=both)


def test_an_endpoint_without_a_composition_is_written_as_before_there_were_any() -> None:
    assert "composition" not in Endpoint(name="delays", model="delay").document()


def release(which: Variant) -> Release:
    fields = tuple(RequestField(name=name, type=FieldType.FLOAT) for name in "abcd")
    return make_release(variants=(which,), fields=fields)


def test_a_release_of_several_formats_answers_through_one_plan_and_verifies_every_member() -> None:
    native = ServableModel(
        "lightgbm", lightgbm_booster().model_to_string().encode(), ("b", "c", "d")
    )
    bundles = MemoryBundles({"sha256:m0": servable(0), "sha256:m1": native})
    runtimes = [OnnxRuntime(device="cpu"), LightGbmRuntime()]
    compiler = PlanCompiler(bundles, runtimes, None)
    which = variant(Combination.MEAN, pinned("m0"), pinned("m1", weight=3))
    made = release(which)
    assert Release.model_validate(made.model_dump(mode="json")) == made
    plan = compiler.compile(made)
    assert set(bundles.opened) == {"sha256:m0", "sha256:m1"}
    body = b'{"inputs":[{"a":1,"b":2,"c":-1,"d":0.5}]}'
    _, (scored,) = plan.score([plan.parse(body, caller="", started=0.0)])
    first = runtimes[0].load(servable(0)).run(np.array([[1, 2, -1]], dtype=np.float32))
    second = lightgbm_booster().predict(np.array([[2, -1, 0.5]]))
    wanted = (float(first[0, 0]) + 3 * float(second[0])) / 4
    assert scored.vectors.outputs[0, 0] == pytest.approx(wanted, abs=1e-6)
    assert opened(bundles, which).inputs == scored.variant.columns == ("a", "b", "c", "d")
    bundles.models["sha256:m1"] = Corrupt("It was changed.")
    with pytest.raises(Corrupt):
        compiler.compile(made)
    del bundles.models["sha256:m1"]
    with pytest.raises(NotFound):
        compiler.compile(made)


def test_a_release_that_was_written_before_compositions_still_loads() -> None:
    document = make_release().model_dump(mode="json")
    for one in document["variants"]:
        del one["members"], one["combine"]
    loaded = Release.model_validate(document)
    assert loaded == make_release()
    assert [member.label for member in loaded.variants[0].pinned] == ["delay/1"]
    with pytest.raises(ValidationError):
        Variant(model="m", version=1, bundle="b", members=(pinned("m0"), pinned("m1")))
    with pytest.raises(ValidationError):
        replace_bundle = variant(Combination.MEAN, pinned("m0"), pinned("m1"))
        Variant.model_validate({**replace_bundle.model_dump(), "bundle": "sha256:another"})
