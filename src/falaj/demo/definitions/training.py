"""How the model is trained: a pipeline whose steps ask the platform, as whoever runs it."""

from typing import Any

from falaj.declare import Pipeline


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
