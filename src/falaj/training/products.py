"""What a training run leaves behind as sealed files: its request, its environment, its model.

From these ``reproduce`` makes the model again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError

from falaj.kernel.errors import Corrupt, NotFound
from falaj.training.calibration import Calibration
from falaj.training.distributions import installed
from falaj.training.encoding import Encoding
from falaj.training.model import Artifact, Run, TrainingRequest
from falaj.training.ports import FittedModel
from falaj.training.targets import BINARY, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falaj.lake.blobs import SealedBlobs

NATIVE_MODEL, FACTS = "model/native.bin", "model/fitted.json"
REQUEST, LOCK = "run/request.json", "run/environment.txt"


class _Facts(BaseModel):
    format: str
    encoding: Encoding
    facts: dict[str, float | str]
    importance: dict[str, float]
    calibration: Calibration | None = None
    target: Target = Field(default=BINARY, exclude_if=lambda given: given == BINARY)
    """Left out where it is what it always was: the same model keeps its digest."""


def kept_request(blobs: SealedBlobs, request: TrainingRequest) -> list[Artifact]:
    """What was asked for, and every distribution that is installed here with its version."""
    lock = "".join(f"{name}=={version}\n" for name, version in sorted(distributions().items()))
    return _kept(blobs, {REQUEST: request.model_dump_json().encode(), LOCK: lock.encode()})


def kept_model(blobs: SealedBlobs, fitted: FittedModel) -> list[Artifact]:
    """The native model, and all else that is known of it."""
    return _kept(blobs, {NATIVE_MODEL: fitted.data, FACTS: facts_of(fitted)})


def facts_of(fitted: FittedModel) -> bytes:
    """Encoding, facts, importance and calibration as JSON; the same model gives the same."""
    facts = _Facts(
        format=fitted.format,
        encoding=fitted.encoding,
        facts=dict(fitted.facts),
        importance=dict(fitted.importance),
        calibration=fitted.calibration,
        target=fitted.target,
    )
    return facts.model_dump_json().encode()


def fetched_model(blobs: SealedBlobs, run: Run) -> FittedModel:
    """The fitted model of a run; raises NotFound if it left none."""
    facts = _Facts.model_validate_json(_fetched(blobs, run, FACTS))
    return FittedModel(
        format=facts.format,
        data=_fetched(blobs, run, NATIVE_MODEL),
        encoding=facts.encoding,
        facts=facts.facts,
        importance=facts.importance,
        calibration=facts.calibration,
        target=facts.target,
    )


def fetched_request(blobs: SealedBlobs, run: Run) -> TrainingRequest:
    """What the run was asked to do.

    Raises:
        NotFound: it is no run of a training job, or one from before this was kept.
        Corrupt: what was kept cannot be read.
    """
    try:
        return TrainingRequest.model_validate_json(_fetched(blobs, run, REQUEST))
    except ValidationError as error:
        raise Corrupt(
            f"The request of {run.id} cannot be read by this version.", hint="Train anew."
        ) from error


def fetched_lock(blobs: SealedBlobs, run: Run) -> dict[str, str]:
    """The distributions that were installed where the run ran, with their versions."""
    lines = _fetched(blobs, run, LOCK).decode().splitlines()
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def distributions() -> dict[str, str]:
    """The distributions that are installed here, by name, with their versions."""
    return {one.name: one.version for one in installed()}


def _kept(blobs: SealedBlobs, files: Mapping[str, bytes]) -> list[Artifact]:
    return [
        Artifact(path=path, digest=blobs.keep(data), size=len(data)) for path, data in files.items()
    ]


def _fetched(blobs: SealedBlobs, run: Run, path: str) -> bytes:
    for artifact in run.artifacts:
        if artifact.path == path:
            return blobs.fetch(artifact.digest)
    raise NotFound(
        f"The run {run.id} has no {path!r}.",
        hint="Only runs of training jobs of this version and later keep it.",
    )
