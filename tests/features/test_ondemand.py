"""On-demand features: one function, offline on columns and online on a row."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features import ondemand
from falaj.features.model import Feature, FeatureService, OnDemandFeatures
from falaj.features.plan import ServicePlan
from falaj.kernel.errors import InvalidInput

UTC_US = pa.timestamp("us", "UTC")


def clues(asked: Column, spent: Column, when: int, name) -> dict[str, Column]:  # noqa: F821
    day = when // 86_400_000_000
    return {
        "share": np.where(spent > 0, asked / spent, np.nan),  # noqa: F821
        "day": day,
        "big": asked > 10,
        "shout": np.array([None if n is None else n.upper() for n in name], dtype=np.object_),  # noqa: F821
    }


INPUTS = {
    "asked": "request:asked", "spent": "spent:sum_1h", "when": "request:when",
    "name": "request:name",
}  # fmt: skip
OUTPUTS = [
    Feature("share", "float64"), Feature("day", "int64"), Feature("big", "bool"),
    Feature("shout", "string"),
]  # fmt: skip


@pytest.fixture
def service(definitions):
    computed = OnDemandFeatures.of(clues, inputs=INPUTS, outputs=OUTPUTS)
    service = FeatureService(
        name="clever", features=["balance:amount", computed],
        request_fields={"asked": "float64", "when": "timestamp", "name": "string"},
        classification="personal",
    )  # fmt: skip
    for item in (computed, service):
        definitions.found[item.kind, item.name] = item
    return service


def test_the_same_function_runs_offline_and_online(store, service, now):
    rows = pa.table({"card": ["a", "a"], "at": pa.array([now, now], UTC_US), "amount": [4.0, 4.0]})
    store.push("payments", rows)
    asked = [
        {"card": "a", "asked": 16.0, "when": now, "name": "é"},
        {"card": "b", "asked": 1.0, "when": None, "name": None},
        {"card": "a", "asked": None, "when": now - timedelta(days=1), "name": ""},
    ]
    online = store.read_online("clever", asked, now).records()
    spine = pa.table(
        {
            "card": [row["card"] for row in asked],
            "asked": pa.array([row["asked"] for row in asked], pa.float64()),
            "when": pa.array([row["when"] for row in asked], UTC_US),
            "name": pa.array([row["name"] for row in asked], pa.string()),
            "timestamp": pa.array([now] * 3, UTC_US),
        }
    )
    offline = store.training_frame(spine, "clever").to_pylist()
    names = [f"clues__{output.name}" for output in OUTPUTS]
    assert [{n: r[n] for n in names} for r in online] == [{n: r[n] for n in names} for r in offline]
    day = int(now.timestamp()) // 86_400
    assert [r["clues__share"] for r in online] == [2.0, None, None]
    assert [r["clues__day"] for r in online][::2] == [day, day - 1]
    assert [r["clues__big"] for r in online] == [True, False, False]
    assert [r["clues__shout"] for r in online] == ["É", None, ""]
    alone = [store.read_online("clever", [row], now).records()[0] for row in asked]
    assert alone == online


def test_the_text_is_kept_without_decorators_and_hashed(service, definitions):
    computed = definitions.get("on_demand", "clues")
    assert computed.source.startswith("def clues(asked, spent, when, name):")
    other = computed.model_copy(update={"source": computed.source.replace("10", "11")})
    assert other.fingerprint != computed.fingerprint
    assert [str(ref) for ref in service.references()] == ["feature_view:balance", "on_demand:clues"]
    assert [str(ref) for ref in computed.references()] == ["feature_view:spent"]


@pytest.mark.parametrize(
    "text",
    [
        "import os", "x = 1", "def f(x): import os; return x", "def f(x):\n return x.__class__",
        "def f(x): return np.load('file')", "def f(x): return np.random.rand()",
        "def f(x): return x.tofile('file')", "def f(x): return __import__('os')",
        "class A: pass", "def f(x):\n global y\n return x", "def f(x): return (",
        "@np.vectorize\ndef f(x): return x", "def f(*x): return x", "def f(x=1): return x",
        "def f(x): return np.lib.npyio",
    ],
)  # fmt: skip
def test_a_text_that_is_not_one_pure_function_is_refused(text):
    with pytest.raises(InvalidInput):
        ondemand.parameters(text)
        ondemand.compiled(text)


def test_annotations_of_a_text_are_not_evaluated():
    assert ondemand.compiled("def f(x: Column) -> Column:\n    return x")(3) == 3


def test_what_has_no_text_is_refused():
    for function in (len, lambda x: x):
        with pytest.raises(InvalidInput):
            ondemand.source_of(function)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return {'other': x}", "other"),
        ("return x[:0]", "shape"),
        ("return x > 1", None),
        ("return np.array(['a'])", "float64"),
        ("return 7", None),
        ("return open('x')", "NameError"),
    ],
)
def test_a_function_that_does_not_keep_its_word_is_told(definitions, store, now, body, told):
    computed = OnDemandFeatures(
        name="odd", inputs={"x": "request:x"}, outputs=[Feature("y", "float64")],
        source=f"def odd(x):\n    {body}\n",
    )  # fmt: skip
    service = FeatureService(name="s", features=[computed], request_fields={"x": "float64"})
    definitions.found["on_demand", "odd"] = computed
    plan = ServicePlan.of(service, definitions)
    if told is None:
        assert store.read_online(plan, [{"x": 2.0}], now).records()[0]["odd__y"] in (1.0, 7.0)
        return
    with pytest.raises(InvalidInput, match=told):
        store.read_online(plan, [{"x": 2.0}], now)


def test_inputs_must_be_what_the_function_takes_and_the_service_has(definitions):
    with pytest.raises(ValueError, match="the function takes"):
        OnDemandFeatures.of(clues, inputs={"asked": "request:asked"}, outputs=OUTPUTS)
    with pytest.raises(ValueError, match="form view:feature"):
        OnDemandFeatures.of(clues, inputs={**INPUTS, "spent": "spent"}, outputs=OUTPUTS)
    for inputs, told in (({"spent": "spent:none"}, "none"), ({"asked": "request:no"}, "no")):
        computed = OnDemandFeatures.of(clues, inputs={**INPUTS, **inputs}, outputs=OUTPUTS)
        definitions.found["on_demand", "clues"] = computed
        service = FeatureService(
            name="s", features=[computed],
            request_fields={"asked": "float64", "when": "timestamp", "name": "string"},
        )  # fmt: skip
        with pytest.raises(InvalidInput, match=told):
            ServicePlan.of(service, definitions)
