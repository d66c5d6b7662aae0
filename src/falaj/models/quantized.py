"""Int8 variants: a new version made from another without training, measured against it.

The bundle names its parent and what was measured when it was made: the differences of
scores on rows, the sizes, the times. The gate ``parent`` measures the differences again, on
test rows, against the limits of the model's policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import AwareDatetime, BaseModel

from falaj.kernel.errors import InvalidInput
from falaj.models.attestation import of_quantization
from falaj.models.bundles import CARD, MODEL, STATISTICS, Bundles
from falaj.models.cards import card
from falaj.models.model import QUANTIZE_JOB, Manifest, ModelFormat, ModelVersion, Parent
from falaj.training.encoding import as_labels
from falaj.training.metrics import binary_metrics
from falaj.training.model import TRAIN, VALIDATION
from falaj.training.training_sets import part_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import Job, JobRun, Jobs
    from falaj.models.ports import Quantizer, Scorer, ScorerFactory
    from falaj.models.registry import Registry
    from falaj.training.model import TrainingSet
    from falaj.training.training_sets import TrainingSets

MADE_BY = "int8"
_MOST_ROWS = 20_000
_TIMED_ROWS = 1_000


class QuantizeRequest(BaseModel):
    """Which version to quantise."""

    model: str
    version: int
    asked_at: AwareDatetime


def ask(call: Call, jobs: Jobs, found: ModelVersion, manifest: Manifest) -> Job:
    """Submit the job that quantises a version.

    Raises:
        InvalidInput: its model is not ONNX, was quantised already, or has no rows to
            measure the difference on.
    """
    why = ""
    if manifest.model_format is not ModelFormat.ONNX:
        why = f"is {manifest.model_format}, not ONNX"
    elif manifest.parent is not None:
        why = f"was made from version {manifest.parent.version} ({manifest.parent.made_by})"
    elif not found.training_set:
        why = "names no training set to measure the difference on"
    if why:
        raise InvalidInput(
            f"The version {found.version} of {found.model} cannot be quantised: it {why}.",
            hint="Name a version with an ONNX model and a training set.",
        )
    request = QuantizeRequest(model=found.model, version=found.version, asked_at=call.now)
    return jobs.submit(call, QUANTIZE_JOB, request.model_dump(mode="json"), max_attempts=1)


class QuantizeJob:
    """Handles ``models.quantize``: makes, measures, packages and registers the variant."""

    def __init__(
        self,
        calls: Calls,
        registry: Registry,
        bundles: Bundles,
        quantizer: Quantizer,
        scorers: ScorerFactory,
        training_sets: TrainingSets,
    ) -> None:
        self._calls = calls
        self._registry = registry
        self._bundles = bundles
        self._quantizer = quantizer
        self._scorers = scorers
        self._training_sets = training_sets

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the model, the new version, its bundle, and what was measured.

        Raises:
            InvalidInput: the model has no dense layer, or predicts something else than the
                probability of label 1.
        """
        request = QuantizeRequest.model_validate(arguments)
        with self._calls.database.reading() as connection:
            found = self._registry.version(connection, request.model, request.version)
            made = self._training_sets.get(connection, found.training_set)
        bundle = self._bundles.open_bundle(found.bundle)
        task = bundle.manifest.signature.target.task
        if task != "binary":
            raise InvalidInput(
                f"{request.model}/{request.version} predicts the task {task!r}; only models of "
                "labels 0 and 1 are quantised.",
                hint="Serve the version as it is.",
            )
        job.report(0.1, "quantising")
        onnx = self._quantizer.quantized(bundle.onnx)
        job.report(0.4, "reading rows")
        rows = self._rows(made)
        encoding = bundle.manifest.signature.encoding
        matrix = encoding.matrix(rows)
        job.report(0.6, "measuring")
        new = self._scorers.of(ModelFormat.ONNX, onnx, encoding.names)
        old = self._scorers.of(ModelFormat.ONNX, bundle.onnx, encoding.names)
        scores = new.scores(matrix)
        parent = _compared(found, bundle.onnx, onnx, old, new, matrix, scores)
        label, _ = made.trainable()
        labels = as_labels(rows.column(label), label)
        known = ~np.isnan(labels)
        both = 0 < labels[known].sum() < known.sum()
        metrics = binary_metrics(labels[known], scores[known]) if both else {}
        manifest = bundle.manifest.model_copy(
            update={
                "parent": parent,
                "created_at": request.asked_at,
                "native_format": "",
                "metrics": {f"validation_{name}": value for name, value in metrics.items()},
            }
        )
        digest = self._bundles.keep(
            manifest,
            {
                MODEL: onnx,
                STATISTICS: bundle.files[STATISTICS],  # of the same inputs
                CARD: card(manifest, owner=job.submitted_by).encode(),
            },
            of_quantization(self._bundles.builder, manifest, job.submitted_by),
        )
        resource = f"model_version:{found.model}/{found.version}"
        with self._calls.opened("models.quantize", job.submitted_by, resource=resource) as call:
            made_version = self._registry.register(
                call, found.model, run=manifest.run, bundle=digest
            )
        return {
            "model": found.model,
            "version": made_version.version,
            "bundle": digest,
            "parent": parent.model_dump(),
        }

    def _rows(self, made: TrainingSet) -> pa.Table:
        """Rows that do not judge: the validation part, else the training part."""
        whole = self._training_sets.load(made)
        rows = part_of(whole, VALIDATION)
        if rows.num_rows == 0:
            rows = part_of(whole, TRAIN)
        if rows.num_rows == 0:
            raise InvalidInput(
                f"The training set {made.id} has no rows but those that judge.",
                hint="Make one with a validation part.",
            )
        return rows.slice(0, _MOST_ROWS)


def _compared(
    found: ModelVersion,
    old_model: bytes,
    new_model: bytes,
    old: Scorer,
    new: Scorer,
    matrix: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float64],
) -> Parent:
    """How a variant differs from the version that it was made from."""
    differences = np.abs(scores - old.scores(matrix))
    timed = matrix[:_TIMED_ROWS]
    return Parent(
        version=found.version,
        bundle=found.bundle,
        made_by=MADE_BY,
        n_rows=len(matrix),
        worst_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        bytes=len(new_model),
        parent_bytes=len(old_model),
        p50_us=float(np.median(new.seconds_per_row(timed))) * 1e6,
        parent_p50_us=float(np.median(old.seconds_per_row(timed))) * 1e6,
    )
