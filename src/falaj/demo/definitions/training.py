"""How the model is trained: a pipeline whose steps ask the platform, as whoever runs it."""

from datetime import timedelta
from typing import Any

from falaj.declare import FromTable, Pipeline, step

MONTH = timedelta(days=31)
MONTHS_TO_TRAIN = 6
"""That a retraining looks back, beside the two months that decide and test."""


def training_set(platform: Any, spec: dict[str, Any]) -> str:
    """Pin and build the training set; its id."""
    job = platform.training.prepare(spec)
    found: str = platform.wait(job).result.training_set
    return found


def trained(training_set: str, platform: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Train on it; what the training job tells."""
    job = platform.training.train({**request, "training_set": training_set})
    return dict(platform.wait(job).result)


flight_training = Pipeline.of(
    "flight-training",
    training_set,
    trained,
    description="Builds the training set, trains, and registers a version of the model.",
    parameters={"spec": {}, "request": {}},
)


def newest(departures: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec over the newest eight months of departures, divided so that the last one tests
    and the one before decides when to stop."""
    import pyarrow.compute as pc

    end = pc.max(departures.column("asked_at")).as_py()
    split = {
        "train_until": (end - 2 * MONTH).isoformat(),
        "validation_until": (end - MONTH).isoformat(),
    }
    begin = end - (MONTHS_TO_TRAIN + 2) * MONTH
    spine = f"{spec['spine_query']} WHERE asked_at >= TIMESTAMPTZ '{begin.isoformat()}'"
    return {**spec, "spine_query": spine, "split": split}


def newest_set(newest: dict[str, Any], platform: Any) -> str:
    """Pin and build the training set of the newest rows; its id."""
    job = platform.training.prepare(newest)
    found: str = platform.wait(job).result.training_set
    return found


def retrained(newest_set: str, platform: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Train on it; what the training job tells."""
    job = platform.training.train({**request, "training_set": newest_set})
    return dict(platform.wait(job).result)


flight_retraining = Pipeline.of(
    "flight-retraining",
    step(newest, takes={"departures": FromTable(table="departures", columns=("asked_at",))}),
    newest_set,
    retrained,
    description="Trains on six months of what has become known, up to two months before the "
    "newest departure.",
    parameters={"spec": {}, "request": {}, "retraining": {}},
)
