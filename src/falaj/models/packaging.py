"""From a fitted model to a bundle; fulfils training's ``Packaging`` port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.models.attestation import of_training
from falaj.models.bundles import CARD, NATIVE, STATISTICS, Bundles
from falaj.models.cards import card
from falaj.models.files import check_bytes
from falaj.models.isolation import ISOLATION, grown
from falaj.models.model import Manifest, ModelFormat, Signature
from falaj.models.ports import OUTPUT_NAMES
from falaj.models.reference import statistics_of
from falaj.training.rowmetrics import metrics_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from falaj.kernel.call import Call
    from falaj.models.ports import Calibrate, OnnxConverter, ScorerFactory
    from falaj.models.registry import Registry
    from falaj.training.ports import Candidate, FittedModel

TOLERANCE = 1e-5
_AS_IT_IS = (ModelFormat.ONNX, ModelFormat.TORCH, ModelFormat.PYTHON)


class ConversionDiffers(InvalidInput):
    """The packaged model does not score as the native one does."""

    code = "conversion-differs"


class ModelPackaging:
    """Builds bundles from candidates and registers them; see training's ``Packaging``."""

    def __init__(
        self,
        converters: Mapping[str, OnnxConverter],
        scorers: ScorerFactory,
        bundles: Bundles,
        registry: Registry,
        *,
        calibrate: Calibrate,
    ) -> None:
        self._converters = dict(converters)
        self._scorers = scorers
        self._calibrate = calibrate
        self._bundles = bundles
        self._registry = registry

    def package(self, candidate: Candidate) -> str:
        """Build, sign and keep the bundle of a candidate; returns its digest.

        A model of a format that a converter knows becomes ONNX; one that can be served as it
        is stays what it is.

        Raises:
            ConversionDiffers: a probability differs by more than 1e-5 on a validation row (a
                number by more than that of the greatest, if that is beyond 1).
            InvalidInput: a calibrated model cannot be packaged as ONNX.
        """
        fitted, matrix = candidate.fitted, candidate.validation.matrix
        names, target = fitted.encoding.names, fitted.target
        model_format, model = self._packaged(fitted)
        scores = self._scorers.of(model_format, model, names, target.outputs).scores(matrix)
        worst = _compared(scores, candidate.scores, "model")
        if fitted.calibration is not None:
            if model_format is not ModelFormat.ONNX:
                raise InvalidInput(
                    f"A {model_format} model cannot bear a calibration.",
                    hint="Give ONNX, or calibrate in the model itself.",
                )
            wanted = fitted.calibration.applied(scores)
            model = self._calibrate(model, fitted.calibration)
            scores = self._scorers.of(model_format, model, names, target.outputs).scores(matrix)
            worst = max(worst, _compared(scores, wanted, "calibration"))
        manifest = _manifest(candidate, model_format, scores, worst)
        statistics = statistics_of(
            fitted.encoding, candidate.train.matrix, scores, candidate.validation.labels,
            task=target.task,
        )  # fmt: skip
        return self._bundles.keep(
            manifest,
            {
                **_beside(candidate),
                model_format.file: model,
                NATIVE: fitted.data,
                STATISTICS: statistics.model_dump_json().encode(),
                CARD: card(manifest, owner=candidate.run.started_by).encode(),
            },
            of_training(self._bundles.builder, manifest, candidate.run, candidate.training_set),
        )

    def _packaged(self, fitted: FittedModel) -> tuple[ModelFormat, bytes]:
        if fitted.format in self._converters:
            return ModelFormat.ONNX, self._converters[fitted.format].convert(fitted)
        if fitted.format not in _AS_IT_IS:
            raise InvalidInput(
                f"A model of the format {fitted.format!r} cannot be packaged.",
                hint=f"Formats are: {', '.join(sorted({*self._converters, *_AS_IT_IS}))}.",
            )
        model_format = ModelFormat(fitted.format)
        check_bytes(fitted.data, model_format)
        return model_format, fitted.data

    def register(self, call: Call, model: str, run: str, bundle: str) -> int:
        """Add the bundle as the next version of the model; a repeat returns the first."""
        return self._registry.register(call, model, run=run, bundle=bundle).version


def _manifest(
    candidate: Candidate,
    model_format: ModelFormat,
    scores: npt.NDArray[np.float64],
    worst: float,
) -> Manifest:
    """What the bundle of a candidate is and comes from.

    Args:
        scores: the packaged model's on the validation rows.
        worst: the greatest difference between those and the native model's.
    """
    made, fitted = candidate.training_set, candidate.fitted
    service, target = made.spec.feature_service, fitted.target
    label, _ = made.trainable()
    measured = metrics_of(target, candidate.validation.labels, scores)
    return Manifest(
        model=candidate.model,
        run=candidate.run.id,
        trainer=candidate.run.params.get("trainer", fitted.format),
        feature_service=service,
        feature_service_fingerprint=made.definitions.get(f"feature_service:{service}", ""),
        definitions=made.definitions,
        training_set=made.id,
        training_set_hash=made.content_hash,
        snapshot=made.spine_snapshot,
        signature=Signature(
            encoding=fitted.encoding,
            output_name=OUTPUT_NAMES[target.task],
            label=label,
            target=target,
        ),
        metrics={f"validation_{name}": value for name, value in measured.items()},
        facts=_facts(fitted, worst),
        importance=dict(fitted.importance),
        model_format=model_format,
        native_format=fitted.format,
        created_at=candidate.run.started_at,
    )


def _beside(candidate: Candidate) -> dict[str, bytes]:
    """The files that a bundle has only if they are asked for."""
    forest = candidate.isolation
    if forest is None:
        return {}
    of = candidate.train.matrix
    return {ISOLATION: grown(of, seed=candidate.seed, **forest.model_dump())}


def _facts(fitted: FittedModel, worst: float) -> dict[str, float | str]:
    facts: dict[str, float | str] = {**fitted.facts, "onnx_worst_difference": worst}
    if fitted.calibration is not None:
        facts["calibration"] = str(fitted.calibration.method)
    return facts


def _compared(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], what: str) -> float:
    """The greatest difference; raises ConversionDiffers if it is too great."""
    scale = max(1.0, float(np.max(np.abs(wanted))))  # of probabilities it is 1
    worst = float(np.max(np.abs(found - wanted))) / scale
    if not worst <= TOLERANCE:
        raise ConversionDiffers(
            f"The packaged {what}'s answers differ from the native ones by {worst:.2e}.",
            hint="Nothing was packaged; report this model's parameters to the maintainers.",
            worst=worst,
            tolerance=TOLERANCE,
        )
    return worst
