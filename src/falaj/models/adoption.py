"""Adoption: a folder of MLflow's becomes a bundle, and so a version that can be judged.

The job takes the file of a flavour that needs no pickle, tries and packages it as any model
that was trained elsewhere (``models.brought``), and gives the bundle to the version. From
there the version goes the way of every other one: gates, approval, release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from falaj.kernel.errors import Conflict, Corrupt, InvalidInput, NotFound
from falaj.models.brought import MOST_BYTES, BringRequest, check_judge, scanned
from falaj.models.files import check_bytes
from falaj.models.mlflowsources import Folder, source_of
from falaj.models.mlmodel import FILE, LARGEST_FILE, read_mlmodel
from falaj.models.model import ADOPT_JOB, ModelFormat, ModelVersion
from falaj.training.artifacts import RUNS, Shelf
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.loggedmodels import LOGGED_MODELS

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import Job, JobRun, Jobs
    from falaj.models.brought import BringJob
    from falaj.models.ports import EstimatorConverter
    from falaj.models.registry import Registry
    from falaj.training.artifacts import Artifacts
    from falaj.training.training_sets import TrainingSets

SET_TAG, UNTIL_TAG = "falaj.training_set", "falaj.trained_until"
"""Tags of a version that say which set judges it, and until when its own rows went."""


class AdoptRequest(BaseModel):
    """A version, and what must be known of its model."""

    model_config = ConfigDict(extra="forbid")

    model: str
    version: int
    training_set: str | None = None
    trained_until: AwareDatetime | None = None
    inputs: tuple[EncodedFeature, ...] | None = Field(default=None, min_length=1)
    note: str = ""
    secrets_allowed: str | None = None
    asked_at: AwareDatetime


class Adopting:
    """Takes requests to adopt a version; the work is a job's."""

    def __init__(self, registry: Registry, training_sets: TrainingSets, jobs: Jobs) -> None:
        self._registry = registry
        self._training_sets = training_sets
        self._jobs = jobs

    def ask(self, call: Call, model: str, version: int, **given: Any) -> Job:
        """Check what can be checked at once, and submit the job.

        The set that judges and the end of the training rows are taken from the version's
        tags if they are not given.

        Raises:
            NotFound: there is no such version, no policy for the model, or no such set.
            Conflict: the version has a bundle already.
            InvalidInput: the training set is for another purpose, or a tag is no instant.
        """
        found = self._registry.version(call.connection, model, version)
        _check_open(found)
        given["training_set"] = given.get("training_set") or found.tags.get(SET_TAG)
        given["trained_until"] = given.get("trained_until") or _until(found)
        asked = AdoptRequest(model=model, version=version, asked_at=call.now, **given)
        probe = _as_brought(asked, found.source, "", ModelFormat.ONNX, _ANY_INPUT)
        check_judge(call.connection, self._registry, self._training_sets, probe)
        call.note(source=found.source, training_set=asked.training_set)
        return self._jobs.submit(call, ADOPT_JOB, asked.model_dump(mode="json"))


class AdoptJob:
    """Handles ``models.adopt``; a repeat after a kill ends at the same bundle.

    Args:
        bringing: tries and packages a model's bytes.
        estimators: turns what skops wrote into ONNX.
    """

    def __init__(
        self,
        calls: Calls,
        registry: Registry,
        artifacts: Artifacts,
        bringing: BringJob,
        estimators: EstimatorConverter,
    ) -> None:
        self._calls = calls
        self._registry = registry
        self._artifacts = artifacts
        self._bringing = bringing
        self._estimators = estimators

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the model, its version, its bundle and the flavour that it was made of.

        Raises:
            NotFound: the folder holds no such file. Corrupt: its bytes were changed.
            InvalidInput: no flavour can be served, or the model gives something else than
                its policy's task asks for.
            Conflict: the version got another bundle meanwhile.
        """
        asked = AdoptRequest.model_validate(arguments)
        with self._calls.database.reading() as connection:
            version = self._registry.version(connection, asked.model, asked.version)
        if version.bundle:  # by this job, before its worker was lost
            return {"model": asked.model, "version": asked.version, "bundle": version.bundle}
        folder = source_of(version.source)
        if not isinstance(folder, Folder):
            raise InvalidInput(f"The source {version.source[:200]!r} is no folder.")
        job.report(0.05, f"reading {FILE}")
        told = read_mlmodel(self._bytes(folder, FILE, LARGEST_FILE))
        flavour = told.flavour()
        inputs = asked.inputs or told.inputs()
        job.report(0.1, f"reading {flavour.file}")
        data = self._bytes(folder, flavour.file, MOST_BYTES)
        file = f"{version.source}/{flavour.file}"
        sha256 = hashlib.sha256(data).hexdigest()
        model_format = flavour.model_format or ModelFormat.ONNX
        request = _as_brought(asked, file, sha256, model_format, inputs)
        found = scanned(request, data)
        if flavour.model_format is None:
            rows = self._bringing.rows(request, Encoding(features=inputs))
            with self._calls.database.reading() as connection:
                target = self._registry.policy(connection, asked.model).target
            data = self._estimators.convert(data, rows, target)
        check_bytes(data, model_format)
        bundle = self._bringing.packaged(
            request, data, sha256, by=job.submitted_by, report=job.report
        )
        resource = f"model_version:{asked.model}/{asked.version}"
        with self._calls.opened("models.adopt", job.submitted_by, resource=resource) as call:
            call.note(file=file, sha256=sha256, flavour=flavour.name, **found)
            self._registry.adopted(call, version, bundle)
        return {"model": asked.model, "version": asked.version, "bundle": bundle,
                "flavour": flavour.name}  # fmt: skip

    def _bytes(self, folder: Folder, name: str, most: int) -> bytes:
        """The whole of one file of the folder, proven to be those of its digest."""
        shelf: Shelf = RUNS if folder.kind == RUNS.kind else LOGGED_MODELS
        path = f"{folder.path}/{name}" if folder.path else name
        with self._calls.database.reading() as connection:
            content = self._artifacts.content(connection, shelf, folder.owner, path)
        if len(content) > most:
            raise InvalidInput(
                f"The file {name!r} is larger than {most:,} bytes.",
                hint="Models of that size are not served.",
            )
        data = b"".join(bytes(piece) for piece in content.pieces())
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != content.artifact.digest:
            raise Corrupt(f"The artifact {path!r} is not what was kept.", hint="Log it again.")
        return data


_ANY_INPUT = (EncodedFeature(name="any"),)


def _as_brought(
    asked: AdoptRequest,
    file: str,
    sha256: str,
    model_format: ModelFormat,
    inputs: tuple[EncodedFeature, ...],
) -> BringRequest:
    return BringRequest(
        model=asked.model,
        file=file,
        sha256=sha256,
        model_format=model_format,
        inputs=inputs,
        training_set=asked.training_set,
        trained_until=asked.trained_until,
        note=asked.note,
        secrets_allowed=asked.secrets_allowed,
        asked_at=asked.asked_at,
    )


def _check_open(version: ModelVersion) -> None:
    if version.bundle:
        raise Conflict(
            f"Version {version.version} of {version.model} has a bundle already.",
            hint="A bundle never changes; register the model as another version.",
        )
    if not version.source:
        raise NotFound(f"Version {version.version} of {version.model} is no folder of MLflow's.")


def _until(version: ModelVersion) -> datetime | None:
    text = version.tags.get(UNTIL_TAG)
    if text is None:
        return None
    try:
        found: datetime = TypeAdapter(AwareDatetime).validate_python(text)
    except ValidationError:
        raise InvalidInput(
            f"The tag {UNTIL_TAG} is {text[:80]!r}, not an instant.",
            hint="Write it as 2026-06-30T00:00:00Z.",
        ) from None
    return found
