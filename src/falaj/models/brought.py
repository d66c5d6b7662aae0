"""Models that were trained elsewhere: checked, tried, packaged and registered as a version.

Such a version stands where every other new version stands, in development, and goes the
same way: gates on rows of this platform, a promotion that another approves. What the
platform did not see (the training rows) it takes down as somebody's word, and judges the
model on later rows only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.models.attestation import of_bringing
from falaj.models.bundles import CARD, STATISTICS, Bundles
from falaj.models.cards import card
from falaj.models.files import check_bytes, sample_table
from falaj.models.model import BRING_JOB, Brought, Manifest, ModelFormat, ModelName, Signature
from falaj.models.reference import statistics_of
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.model import TEST
from falaj.training.targets import Target
from falaj.training.training_sets import part_of
from falaj.trust.secretscan import scan_file

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from falaj.ingest.files import Files
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import Job, JobRun, Jobs
    from falaj.models.ports import ScorerFactory
    from falaj.models.registry import Registry
    from falaj.training.ports import Report
    from falaj.training.training_sets import TrainingSets

MOST_BYTES = 1 << 30
READ_AT_ONCE = 32 << 20
"""A larger file is read by the job alone: a request must not hold up its door and a transaction."""
MOST_SAMPLE_ROWS = 100_000
_TRIED_ROWS, _MISSING_SHARE = 256, 0.1
_SUM_TOLERANCE = 1e-3
"""Of float32 probabilities of up to a hundred classes."""


class FileStamp(BaseModel):
    """What a file was like when it was asked for."""

    model_config = ConfigDict(frozen=True)

    n_bytes: int
    modified_ns: int
    inode: int


class BringRequest(BaseModel):
    """A model's file and what must be known of it."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName
    file: str
    """In the data folders."""
    sha256: str
    """Empty of a large file: ``stamp`` tells then whether it is still the same."""
    stamp: FileStamp | None = None
    model_format: ModelFormat
    inputs: tuple[EncodedFeature, ...] = Field(min_length=1)
    training_set: str | None = None
    trained_until: AwareDatetime | None = None
    sample: str | None = None
    note: str = Field(default="", max_length=2_000)
    secrets_allowed: str | None = None
    asked_at: AwareDatetime


class Bringing:
    """Takes requests to bring a model; the work is a job's.

    Args:
        files: the files that may be read.
        pickles: whether the settings permit pickled models.
    """

    def __init__(
        self,
        files: Files,
        registry: Registry,
        training_sets: TrainingSets,
        jobs: Jobs,
        *,
        pickles: bool = False,
    ) -> None:
        self._pickles = pickles
        self._files = files
        self._registry = registry
        self._training_sets = training_sets
        self._jobs = jobs

    def ask(self, call: Call, request: Mapping[str, Any]) -> Job:
        """Check what can be checked at once, and submit the job.

        What is in a file of more than ``READ_AT_ONCE`` bytes is for the job to check.

        Raises:
            NotFound: there is no policy for the model, or no such training set.
            SourceBroken: a file is not there, or may not be read.
            InvalidInput: the file is a pickle, or the training set is for another purpose.
            SecretFound: it holds what looks like a secret, and no reason was given.
        """
        path = found(self._files, str(request["file"]), "The model")
        data, stamp = read(path, READ_AT_ONCE)
        sha256 = "" if data is None else _sha256(data)
        kept = stamp if data is None else None
        asked = BringRequest(**request, sha256=sha256, stamp=kept, asked_at=call.now)
        if data is not None:
            check_bytes(data, asked.model_format, pickles=self._pickles)
            call.note(**scanned(asked, data))
        names = [one.name for one in asked.inputs]
        if len(set(names)) != len(names):
            raise InvalidInput("An input is named twice.", hint="Name each input once.")
        if asked.sample is not None:
            found(self._files, asked.sample, "The sample")
        check_judge(call.connection, self._registry, self._training_sets, asked)
        noted = {"sha256": sha256} if sha256 else {"n_bytes": stamp.n_bytes}
        call.note(file=asked.file, format=str(asked.model_format), **noted)
        return self._jobs.submit(call, BRING_JOB, asked.model_dump(mode="json"), max_attempts=1)


class BringJob:
    """Handles ``models.bring``: tries the model, packages it, registers the version."""

    def __init__(
        self,
        calls: Calls,
        files: Files,
        registry: Registry,
        bundles: Bundles,
        scorers: ScorerFactory,
        training_sets: TrainingSets,
        *,
        pickles: bool = False,
    ) -> None:
        self._pickles = pickles
        self._calls = calls
        self._files = files
        self._registry = registry
        self._bundles = bundles
        self._scorers = scorers
        self._training_sets = training_sets

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the model, its version and bundle.

        Raises:
            Conflict: the file is not the one that was asked for any more.
            Corrupt, InvalidInput: it is no model of that format and those inputs, or it
                gives something else than its policy's task asks for.
        """
        request = BringRequest.model_validate(arguments)
        data, stamp = read(found(self._files, request.file, "The model"))
        sha256 = _sha256(data)
        same = sha256 == request.sha256 if request.sha256 else stamp == request.stamp
        if not same:
            raise Conflict(
                f"The file {request.file!r} was changed since it was asked for.",
                hint="Bring it again.",
            )
        check_bytes(data, request.model_format, pickles=self._pickles)
        found_in_it = {} if request.sha256 else scanned(request, data)
        bundle = self.packaged(request, data, sha256, by=job.submitted_by, report=job.report)
        resource = f"model:{request.model}"
        with self._calls.opened("models.bring", job.submitted_by, resource=resource) as call:
            call.note(file=request.file, sha256=sha256, **found_in_it)
            version = self._registry.register(call, request.model, run="", bundle=bundle).version
        return {"model": request.model, "version": version, "bundle": bundle}

    def packaged(
        self, request: BringRequest, data: bytes, sha256: str, *, by: str, report: Report
    ) -> str:
        """Try the model's bytes, and keep the bundle that is made of them; returns its digest.

        Args:
            sha256: of the file that the bytes come from.
            by: who brought it.

        Raises:
            Corrupt, InvalidInput: it is no model of that format and those inputs, or it
                gives something else than its policy's task asks for.
        """
        with self._calls.database.reading() as connection:
            judge = check_judge(connection, self._registry, self._training_sets, request)
        report(0.2, "reading rows")
        encoding = Encoding(features=request.inputs)
        matrix = self.rows(request, encoding)
        report(0.5, "trying the model")
        target = judge.target
        scorer = self._scorers.of(request.model_format, data, encoding.names, target.outputs)
        scores = answers(scorer.scores(matrix), request.file, target)
        answers(scorer.scores(made_up_rows(encoding)), request.file, target)
        manifest = Manifest(
            model=request.model,
            run="",
            trainer=f"brought ({request.model_format})",
            feature_service=judge.feature_service,
            feature_service_fingerprint=judge.fingerprint,
            definitions={},
            training_set=request.training_set or "",
            training_set_hash="",
            snapshot=0,
            signature=Signature(encoding=encoding, label=judge.label, target=target),
            metrics={},
            facts={"sample_rows": float(len(matrix))},
            model_format=request.model_format,
            brought=Brought(
                file=request.file,
                sha256=sha256,
                by=by,
                trained_until=request.trained_until,
                note=request.note,
            ),
            created_at=request.asked_at,
        )
        statistics = statistics_of(encoding, matrix, scores, task=target.task)
        return self._bundles.keep(
            manifest,
            {
                request.model_format.file: data,
                STATISTICS: statistics.model_dump_json().encode(),
                CARD: card(manifest, owner=by).encode(),
            },
            of_bringing(self._bundles.builder, manifest),
        )

    def rows(self, request: BringRequest, encoding: Encoding) -> Any:
        """What the model is tried on, and its statistics come from: the sample, else rows of
        the training set that do not judge it, else one row without a value."""
        rows: pa.Table | None = None
        if request.sample is not None:
            path = found(self._files, request.sample, "The sample")
            rows = sample_table(path, encoding, MOST_SAMPLE_ROWS)
        elif request.training_set is not None:
            with self._calls.database.reading() as connection:
                made = self._training_sets.get(connection, request.training_set)
            whole = self._training_sets.load(made)
            judging = part_of(whole, TEST).num_rows
            rows = part_of(whole, "train") if judging else whole
            rows = rows.slice(0, MOST_SAMPLE_ROWS)
        if rows is None or rows.num_rows == 0:
            return np.full((1, len(encoding.features)), np.nan, dtype=np.float32)
        return encoding.matrix(rows)


def scanned(request: BringRequest, data: bytes) -> dict[str, Any]:
    """What a scan for secrets tells of a file; raises SecretFound if it may not hold them."""
    scan = scan_file(request.file, data)
    scan.refuse_unless(request.secrets_allowed, f"the file {request.file!r}")
    return {"secrets": scan.told(), "scanned_whole": scan.whole}


def made_up_rows(encoding: Encoding) -> Any:
    """Rows of small and large numbers, known words and missing values; always the same.

    Nobody's data: a model must give an answer whatever a client sends.
    """
    random = np.random.default_rng(0)
    rows = random.normal(size=(_TRIED_ROWS, len(encoding.features)))
    rows *= 10.0 ** random.integers(-2, 5, size=(_TRIED_ROWS, 1))
    for place, feature in enumerate(encoding.features):
        if feature.categories:
            rows[:, place] = random.integers(0, len(feature.categories), _TRIED_ROWS)
    rows[random.random(rows.shape) < _MISSING_SHARE] = np.nan
    return rows.astype(np.float32)


@dataclass(frozen=True)
class Judge:
    """What a brought model is held to."""

    label: str
    target: Target
    feature_service: str
    fingerprint: str
    """Of the feature service's definition; empty without a training set."""


def check_judge(
    connection: Connection,
    registry: Registry,
    training_sets: TrainingSets,
    request: BringRequest,
) -> Judge:
    """Label, task and feature service by the model's policy; the training set must be for them.

    Raises:
        NotFound: there is no policy, or no such training set.
        InvalidInput: the training set has another label, task or feature service, or no split.
    """
    policy = registry.policy(connection, request.model)
    fingerprint = ""
    if request.training_set is not None:
        made = training_sets.get(connection, request.training_set)
        label, _ = made.trainable()
        service = made.spec.feature_service
        if (label, service) != (policy.label, policy.feature_service):
            raise InvalidInput(
                f"The training set {made.id} is for {label!r} by {service!r}; the policy of "
                f"{request.model!r} is for {policy.label!r} by {policy.feature_service!r}.",
                hint="Name a training set that was made for this model's policy.",
            )
        if made.spec.target != policy.target:
            raise InvalidInput(
                f"The training set {made.id} is of the task {made.spec.task!r}, the policy of "
                f"{request.model!r} of {policy.task!r}"
                + (" with other classes." if made.spec.task == policy.task else "."),
                hint="Name a training set that was made for this model's policy.",
            )
        fingerprint = made.definitions.get(f"feature_service:{service}", "")
    return Judge(policy.label, policy.target, policy.feature_service, fingerprint)


def answers(scores: Any, file: str, target: Target) -> Any:
    """The scores, if all of them are what the task asks for; raises InvalidInput.

    Numbers must be finite, probabilities lie between 0 and 1, and those of classes sum to 1.
    """
    if target.task == "regression":
        if not np.isfinite(scores).all():
            raise InvalidInput(
                f"The model {file!r} gives numbers that are not finite.",
                hint="Bring one that gives a number also for a row with missing values: put what "
                "fills them in into the model.",
            )
        return scores
    if target.classes and not np.allclose(scores.sum(axis=1), 1.0, atol=_SUM_TOLERANCE):
        raise InvalidInput(
            f"The model {file!r} gives probabilities whose sum is not 1.",
            hint=f"Bring one that gives the probability of each of {', '.join(target.classes)}, "
            "in that order, also for a row with missing values.",
        )
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise InvalidInput(
            f"The model {file!r} gives numbers that are no probabilities "
            f"(from {np.nanmin(scores):.4g} to {np.nanmax(scores):.4g}, or none at all).",
            hint="Bring a classifier that gives the probability of its label, also for a row "
            "with missing values: put what fills them in into the model.",
        )
    return scores


def found(files: Files, name: str, told: str) -> Path:
    """The one file of that name in the data folders; raises SourceBroken, InvalidInput."""
    paths = files.matching(name, told)
    if len(paths) != 1:
        raise InvalidInput(
            f"{told} {name!r} names {len(paths)} files.", hint="Name one file, without wildcards."
        )
    return paths[0]


@overload
def read(path: Path) -> tuple[bytes, FileStamp]: ...
@overload
def read(path: Path, most_bytes: int) -> tuple[bytes | None, FileStamp]: ...
def read(path: Path, most_bytes: int | None = None) -> tuple[bytes | None, FileStamp]:
    """The bytes of a file, and what it is like.

    Args:
        path: of the file.
        most_bytes: if it has more, it is not read, and there is None in the place of its bytes.

    Raises:
        InvalidInput: it has more than ``MOST_BYTES``.
        NotFound: it cannot be read.
        Conflict: it was changed while it was read.
    """
    try:
        with path.open("rb") as file:
            stamp = _stamp(file.fileno())
            if stamp.n_bytes > MOST_BYTES:
                raise InvalidInput(
                    f"The file {path.name!r} is larger than {MOST_BYTES:,} bytes.",
                    hint="Models of that size are not served.",
                )
            if most_bytes is not None and stamp.n_bytes > most_bytes:
                return None, stamp
            data = file.read(stamp.n_bytes + 1)
            after = _stamp(file.fileno())
    except OSError as error:
        raise NotFound(f"The file {path.name!r} cannot be read.", hint=str(error)) from error
    if after != stamp or len(data) != stamp.n_bytes:
        raise Conflict(
            f"The file {path.name!r} was changed while it was read.", hint="Bring it again."
        )
    return data, stamp


def _stamp(descriptor: int) -> FileStamp:
    found = os.fstat(descriptor)
    return FileStamp(n_bytes=found.st_size, modified_ns=found.st_mtime_ns, inode=found.st_ino)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
