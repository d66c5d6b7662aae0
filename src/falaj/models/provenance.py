"""Whether what a bundle attests of its making is what this platform recorded of it.

A signature says who attests; this says whether it is so: the run, its training set, the
hash of its rows, its definitions and its code must be those in the metadata database.
Asked when a version is registered, promoted and deployed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from falaj.kernel.errors import Corrupt
from falaj.models.attestation import TRAINING, code_of, training_set
from falaj.training.model import CodeVersion, TrainingSet
from falaj.training.tables import run_rows, training_set_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.models.attestation import Provenance
    from falaj.models.bundles import Bundle
    from falaj.models.model import Manifest


class ProvenanceDiffers(Corrupt):
    """What a bundle says of how it was made is not what this platform recorded."""

    code = "provenance-differs"


def check_provenance(connection: Connection, bundle: Bundle) -> None:
    """Return if the records of this platform agree with a bundle's attestation.

    A bundle without one (an older version packaged it) is held to its manifest alone. Of a
    model that was brought or quantised, only what the manifest says is compared.

    Raises:
        ProvenanceDiffers: names what differs.
    """
    manifest = bundle.manifest
    told = bundle.attestation.predicate if bundle.attestation else None
    differing = [*_against_manifest(manifest, told)] if told else []
    if manifest.run:
        differing += _against_records(connection, manifest, told)
    if differing:
        raise ProvenanceDiffers(
            f"The bundle {bundle.digest[:19]}… does not say how its model was made: "
            f"{', '.join(differing)} differ from what was recorded.",
            hint="Do not serve it; find out who changed the records or the bundle.",
            differing=differing,
        )


def _against_manifest(manifest: Manifest, told: Provenance) -> Iterator[str]:
    """What the attestation and the manifest say differently."""
    chosen = told.definition.external
    for name in ("model", "training_set", "feature_service"):
        if chosen.get(name) != getattr(manifest, name):
            yield name
    if told.definition.build_type != TRAINING:
        return
    if told.details.metadata.invocation != manifest.run:
        yield "run"
    rows = told.dependency("training_set")
    if rows is None or f"sha256:{rows.digest.get('sha256')}" != manifest.training_set_hash:
        yield "the hash of the training set"


def _against_records(
    connection: Connection, manifest: Manifest, told: Provenance | None
) -> Iterator[str]:
    """What the records of the run and of its training set say differently."""
    run = connection.execute(
        select(run_rows.c.training_set, run_rows.c.code, run_rows.c.started_by).where(
            run_rows.c.id == manifest.run
        )
    ).first()
    if run is None:
        yield "the run (there is none)"
    elif run.training_set != manifest.training_set:
        yield "the training set of the run"
    found = connection.execute(
        select(training_set_rows.c.content_hash, training_set_rows.c.document).where(
            training_set_rows.c.id == manifest.training_set
        )
    ).first()
    if found is None:
        yield "the training set (there is none)"
        return
    made = TrainingSet.model_validate(found.document)
    if {found.content_hash, made.content_hash} != {manifest.training_set_hash}:
        yield "the rows of the training set"
    if made.definitions != manifest.definitions:
        yield "the definitions"
    if told is None or told.definition.build_type != TRAINING:
        return
    if told.dependency("training_set") != training_set(made):
        yield "the training set's pins"
    if run is not None:
        yield from _of_run(run, told)


def _of_run(run: Any, told: Provenance) -> Iterator[str]:
    code = None if run.code is None else code_of(CodeVersion.model_validate(run.code))
    if told.dependency("code") != code:
        yield "the code"
    if told.definition.internal.get("asked_by") != run.started_by:
        yield "who asked for it"
