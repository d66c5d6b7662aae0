"""The attestation of a bundle: how its model was made, signed, in the bundle.

An in-toto statement whose subjects are the other files of the bundle, and whose predicate is
SLSA provenance v1: the builder is this installation, the build is a run (or a job that
brought or quantised a model), and what it was made of (rows, definitions, code, packages) is
named with digests. It stands in ``attestation.json`` as a Sigstore bundle, so that it can
be read and verified without Falaj.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from falaj.kernel.errors import Corrupt
from falaj.models.signing import canonical

if TYPE_CHECKING:
    from falaj.models.model import Manifest
    from falaj.training.model import CodeVersion, Environment, Run, TrainingSet

ATTESTATION = "attestation.json"
TRAINING, BRINGING, QUANTIZATION = (
    "urn:falaj:build:training:v1",
    "urn:falaj:build:bringing:v1",
    "urn:falaj:build:quantization:v1",
)
_SHA256 = "sha256:"


class _Part(BaseModel):
    # Names are those of the in-toto and SLSA formats.
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Dependency(_Part):
    """Something that a model was made of, with its digest."""

    name: str
    uri: str
    digest: dict[str, str] = {}
    annotations: dict[str, Any] = {}


class Definition(_Part):
    """What was asked for, and what it was made of."""

    build_type: str = Field(alias="buildType")
    external: dict[str, Any] = Field(alias="externalParameters")
    """What whoever asked could choose: model, trainer, parameters, training set."""
    internal: dict[str, Any] = Field({}, alias="internalParameters")
    """What the platform set: who asked, the environment."""
    dependencies: tuple[Dependency, ...] = Field((), alias="resolvedDependencies")


class Builder(_Part):
    """The installation that made it."""

    id: str
    version: dict[str, str] = {}


class Times(_Part):
    """Which build it was, and when it began."""

    invocation: str = Field(alias="invocationId")
    """The run's id; of a brought model the SHA-256 of its file."""
    started: datetime = Field(alias="startedOn")


class Details(_Part):
    """Who made it, and when."""

    builder: Builder
    metadata: Times


class Provenance(_Part):
    """SLSA provenance v1."""

    definition: Definition = Field(alias="buildDefinition")
    details: Details = Field(alias="runDetails")

    def dependency(self, name: str) -> Dependency | None:
        """What it was made of under that name."""
        return next((one for one in self.definition.dependencies if one.name == name), None)


class _Digest(_Part):
    sha256: str


class _Subject(_Part):
    name: str
    digest: _Digest


class Attestation(_Part):
    """An in-toto statement about the files of one bundle."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        "https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: tuple[_Subject, ...]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(
        "https://slsa.dev/provenance/v1", alias="predicateType"
    )
    predicate: Provenance

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file that it is about."""
        return {one.name: one.digest.sha256 for one in self.subject}

    def payload(self) -> bytes:
        """As it is signed."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def of(cls, digests: Mapping[str, str], made: Provenance) -> Attestation:
        """How files came to be."""
        subject = tuple(
            _Subject(name=name, digest=_Digest(sha256=digests[name])) for name in sorted(digests)
        )
        return cls(subject=subject, predicate=made)

    @classmethod
    def read(cls, payload: bytes) -> Attestation:
        """Read ``payload`` back; raises Corrupt unless it is provenance of that form."""
        try:
            return cls.model_validate(json.loads(payload))
        except (ValidationError, ValueError, RecursionError):
            raise Corrupt(
                "The attestation is no SLSA provenance of this platform.",
                hint="Do not serve the bundle; package the model again.",
            ) from None


def of_training(builder: Builder, manifest: Manifest, run: Run, made: TrainingSet) -> Provenance:
    """How a run of this platform made a model."""
    return _provenance(
        TRAINING,
        builder,
        manifest,
        external={"trainer": manifest.trainer, "params": dict(run.params)},
        internal=_inside(run.started_by, run.environment),
        dependencies=[training_set(made), *_definitions(made.definitions), *_code(run.code)],
        invocation=run.id,
        started=run.started_at,
    )


def of_bringing(builder: Builder, manifest: Manifest) -> Provenance:
    """How a model came here that was trained elsewhere: as a file, on somebody's word."""
    brought = manifest.brought
    if brought is None:
        raise ValueError("the model was not brought")
    until = brought.trained_until.isoformat() if brought.trained_until else None
    file = Dependency(
        name="file",
        uri="urn:falaj:file",
        digest={"sha256": brought.sha256},
        annotations={"name": brought.file, "trained_until": until},
    )
    return _provenance(
        BRINGING,
        builder,
        manifest,
        external={"format": str(manifest.model_format)},
        internal=_inside(brought.by, None),
        dependencies=[file],
        invocation=brought.sha256,
        started=manifest.created_at,
    )


def of_quantization(builder: Builder, manifest: Manifest, by: str) -> Provenance:
    """How a smaller model was made from another version's."""
    parent = manifest.parent
    if parent is None:
        raise ValueError("the model has no parent")
    whole = Dependency(
        name="parent",
        uri=f"urn:falaj:model_version:{manifest.model}:{parent.version}",
        digest=_digest(parent.bundle),
    )
    return _provenance(
        QUANTIZATION,
        builder,
        manifest,
        external={"made_by": parent.made_by},
        internal=_inside(by, None),
        dependencies=[whole],
        invocation=parent.bundle,
        started=manifest.created_at,
    )


def training_set(made: TrainingSet) -> Dependency:
    """The rows that a model learned from, pinned."""
    return Dependency(
        name="training_set",
        uri=f"urn:falaj:training_set:{made.id}",
        digest=_digest(made.content_hash),
        annotations={
            "spine": made.spine_hash,
            "spine_snapshot": made.spine_snapshot,
            "snapshot": made.snapshot,
            "table": made.table,
            "n_rows": made.n_rows,
            "purpose": made.purpose,
        },
    )


def code_of(code: CodeVersion) -> Dependency:
    """The code of a trainer."""
    commit = {} if code.commit is None else {"gitCommit": code.commit}
    return Dependency(
        name="code",
        uri=f"urn:falaj:code:{code.entry}",
        digest={**_digest(code.content_hash), **commit},
        annotations={"dirty": code.dirty},
    )


def _provenance(
    build_type: str,
    builder: Builder,
    manifest: Manifest,
    *,
    external: dict[str, Any],
    internal: dict[str, Any],
    dependencies: list[Dependency],
    invocation: str,
    started: datetime,
) -> Provenance:
    chosen = {
        "model": manifest.model,
        "training_set": manifest.training_set,
        "feature_service": manifest.feature_service,
        **external,
    }
    document = {
        "buildDefinition": {
            "buildType": build_type,
            "externalParameters": chosen,
            "internalParameters": internal,
            "resolvedDependencies": [one.model_dump() for one in dependencies],
        },
        "runDetails": {
            "builder": builder.model_dump(),
            "metadata": {"invocationId": invocation, "startedOn": started},
        },
    }
    return Provenance.model_validate(document)


def _inside(by: str, environment: Environment | None) -> dict[str, Any]:
    told: dict[str, Any] = {"asked_by": by}
    if environment is not None:
        told["environment"] = environment.model_dump(mode="json")
    return told


def _definitions(fingerprints: Mapping[str, str]) -> list[Dependency]:
    return [
        Dependency(name=name, uri=f"urn:falaj:definition:{name}", digest={"sha256": fingerprint})
        for name, fingerprint in sorted(fingerprints.items())
    ]


def _code(code: CodeVersion | None) -> list[Dependency]:
    return [] if code is None else [code_of(code)]


def _digest(text: str) -> dict[str, str]:
    return {"sha256": text.removeprefix(_SHA256)}
