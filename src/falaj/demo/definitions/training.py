"""How the model is trained: a pipeline whose steps ask the platform, as whoever runs it."""

from datetime import timedelta
from typing import Any

from falaj.declare import FromTable, Pipeline, step

MONTH = timedelta(days=31)


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
    """The spec, divided so that the last month of departures tests and the one before decides
    when to stop."""
    import pyarrow.compute as pc

    end = pc.max(departures.column("asked_at")).as_py()
    split = {
        "train_until": (end - 2 * MONTH).isoformat(),
        "validation_until": (end - MONTH).isoformat(),
    }
    return {**spec, "split": split}


def newest_set(
    newest: dict[str, Any],
    platform: Any,
    departures: Any,  # noqa: ARG001 - while these tables stand still, the set stays what it is
    schedule: Any,  # noqa: ARG001
    weather: Any,  # noqa: ARG001
    aircraft: Any,  # noqa: ARG001
) -> str:
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
    # The next retraining takes the same set unless a table that it is made of has changed.
    step(
        newest_set,
        cached=True,
        takes={
            "departures": FromTable(table="departures", columns=("asked_at",)),
            "schedule": FromTable(table="schedule", columns=("scheduled_at",)),
            "weather": FromTable(table="weather", columns=("known_at",)),
            "aircraft": FromTable(table="aircraft", columns=("tailnum",)),
        },
    ),
    retrained,
    description="Trains on what has become known, up to two months before the newest departure.",
    parameters={"spec": {}, "request": {}, "retraining": {}},
)
