"""A tiny world of made-up departures, and the main flow told on it step by step.

A module of its own, so that the fixtures of several test modules can tell the same story.
"""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from falaj.declare import (
    Aggregate,
    Contract,
    Endpoint,
    Entity,
    FeatureService,
    FeatureView,
    MetricRule,
    Mode,
    ModelPolicy,
    NotNull,
    RowCount,
    Source,
    Unique,
)
from falaj.kernel.errors import FalajError
from falaj.training.model import TimeSplit, TrainingRequest, TrainingSetSpec

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
SPEC = TrainingSetSpec(
    feature_service="delays",
    label="late",
    spine="departures",
    timestamp="at",
    knowledge="event",
    split=TimeSplit(
        train_until=BEGIN + timedelta(days=60), validation_until=BEGIN + timedelta(days=80)
    ),
)
SMALL = {"n_trees": 25, "min_data_in_leaf": 40, "num_leaves": 7, "num_threads": 1}
REQUEST = TrainingRequest(model="late", spec=SPEC, params=SMALL)
N_ROWS = 1500
ENGINEER = ("data_scientist", "ml_engineer", "steward", "operator")
QUESTION = {"carrier": "WN", "signal": 0.5}

DEPARTURES = Source(
    name="departures",
    table="departures",
    path="departures.csv",
    columns={
        "flight": "integer",
        "carrier": "text",
        "signal": "number",
        "at": "instant",
        "late": "boolean",
    },
    event_time="at",
)
BULK = Source(
    name="bulk",
    table="bulk",
    path="bulk.csv",
    columns={"flight": "integer", "carrier": "text", "signal": "number"},
    mode=Mode.REPLACE,
)
DEFINITIONS = (
    DEPARTURES,
    Source(
        name="arrivals",
        table="arrivals",
        path="arrivals.csv",
        columns={"flight": "integer", "carrier": "text", "landed_at": "instant", "delay": "number"},
        event_time="landed_at",
    ),
    Contract(
        name="departures_hold",
        table="departures",
        checks=(NotNull(column="carrier"), Unique(columns=("flight",)), RowCount(least=10)),
    ),
    Entity(name="carrier", keys={"carrier": "string"}),
    FeatureView(
        name="recent",
        entity="carrier",
        source="arrivals",
        event_time="landed_at",
        aggregates=(
            Aggregate("mean_1d", "mean", "delay", window=timedelta(days=1)),
            Aggregate("count_1d", "count", window=timedelta(days=1)),
        ),
    ),
    FeatureService(
        name="delays",
        features=("recent",),
        request_fields={"signal": "float64", "carrier": "string"},
    ),
    ModelPolicy(
        name="late",
        feature_service="delays",
        label="late",
        intended_use="Warns of late departures.",
        floors=(MetricRule(metric="auc", limit=0.6),),
        calibration=0.3,
        latency=None,
    ),
    Endpoint(name="late", model="late", feature_service="delays"),
)


def documents(*definitions):
    """Definitions as the door takes them."""
    return [one.document() for one in definitions or DEFINITIONS]


def write_data(folder: Path, *, n=N_ROWS, days=100, seed=1) -> None:
    """Made-up departures whose label a feature tells with an AUC of about 0.8."""
    random = np.random.default_rng(seed)
    seconds = np.sort(random.integers(0, (days - 1) * 86_400, n))
    carriers = np.array(["AA", "UA", "WN"])[random.integers(0, 3, n)]
    signal = random.normal(size=n)
    logits = 1.3 * signal + np.where(carriers == "WN", 0.8, -0.4)
    late = random.random(n) < 1 / (1 + np.exp(-logits))
    delay = np.where(late, 30.0, 0.0) + random.normal(size=n)
    departures, arrivals = [], []
    for i in range(n):
        at = BEGIN + timedelta(days=1, seconds=int(seconds[i]))
        word = str(bool(late[i])).lower()
        departures.append((i, carriers[i], f"{signal[i]:.6f}", at.isoformat(), word))
        landed = (at + timedelta(hours=3)).isoformat()
        arrivals.append((i, carriers[i], landed, f"{delay[i]:.6f}"))
    _write(folder / "departures.csv", ("flight", "carrier", "signal", "at", "late"), departures)
    _write(folder / "arrivals.csv", ("flight", "carrier", "landed_at", "delay"), arrivals)


def write_bulk(folder: Path, *, n) -> None:
    """Many small rows, so that a load takes a while."""
    rows = ((i, "AA" if i % 3 else "UA", f"{i / 7:.4f}") for i in range(n))
    _write(folder / "bulk.csv", ("flight", "carrier", "signal"), rows)


def _write(path: Path, header, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(rows)


def prepared(platform):
    """Definitions, loads, features, a training set, a version with gates; returns the answers."""
    platform.definitions.apply(documents())
    answers = {}
    for source in ("departures", "arrivals"):
        answers[source] = platform.wait(platform.sources.load(source)).result
    made = platform.wait(platform.training.prepare(SPEC)).result
    request = TrainingRequest(model="late", training_set=made["training_set"], params=SMALL)
    answers["training_set"] = made
    answers["trained"] = platform.wait(platform.training.train(request)).result
    platform.wait(platform.models.gates("late", answers["trained"]["version"]))
    return answers


def told(installation, engineer, approver):
    """The whole flow, over HTTPS, as two persons; returns what was answered, JSON-ready."""
    by_engineer, by_approver = engineer.platform(), approver.platform()
    answers = prepared(by_engineer)
    version = answers["trained"]["version"]
    change = by_engineer.models.promote("late", version, to="production", reason="It is better.")
    answers["change"] = change.model_dump(mode="json")
    answers["own_approval"] = refused(lambda: by_engineer.changes.approve(change.id, reason="Mine"))
    approved = by_approver.changes.approve(change.id, reason="The gates passed.")
    answers["approved"] = approved.model_dump(mode="json")
    release = by_engineer.endpoints.deploy("late", activate=True)
    answers["release"] = release.model_dump(mode="json")
    with engineer.client(installation.inference) as web:
        answer = web.post("/v1/endpoints/late/predict", json={"inputs": [QUESTION]})
    answers["answer"] = answer.raise_for_status().json()
    return answers


def refused(action):
    """The code of the error that an action ends with, or None."""
    try:
        action()
    except FalajError as error:
        return error.code
    return None
