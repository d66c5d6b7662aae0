"""From a fitted model to a bundle; fulfils training's ``Packaging`` port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.models.attestation import of_training
from falaj.models.bundles import CARD, MODEL, NATIVE, STATISTICS, Bundles
from falaj.models.cards import card
from falaj.models.model import Manifest, Signature
from falaj.models.reference import statistics_of
from falaj.training.metrics import binary_metrics

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.models.ports import OnnxConverter, ScorerFactory
    from falaj.models.registry import Registry
    from falaj.training.ports import Candidate

TOLERANCE = 1e-5


class ConversionDiffers(InvalidInput):
    """The packaged model does not score as the native one does."""

    code = "conversion-differs"


class ModelPackaging:
    """Builds bundles from candidates and registers them; see training's ``Packaging``."""

    def __init__(
        self,
        converter: OnnxConverter,
        scorers: ScorerFactory,
        bundles: Bundles,
        registry: Registry,
    ) -> None:
        self._converter = converter
        self._scorers = scorers
        self._bundles = bundles
        self._registry = registry

    def package(self, candidate: Candidate) -> str:
        """Build, sign and keep the bundle of a candidate; returns its digest.

        Raises:
            ConversionDiffers: a probability differs by more than 1e-5 on a validation row.
        """
        onnx = self._converter.convert(candidate.fitted)
        names = candidate.fitted.encoding.names
        scores = self._scorers.of("onnx", onnx, names).scores(candidate.validation.matrix)
        worst = float(np.max(np.abs(scores - candidate.scores)))
        if not worst <= TOLERANCE:
            raise ConversionDiffers(
                f"The ONNX model's probabilities differ from the native ones by {worst:.2e}.",
                hint="Nothing was packaged; report this model's parameters to the maintainers.",
                worst=worst,
                tolerance=TOLERANCE,
            )
        made = candidate.training_set
        service = made.spec.feature_service
        label, _ = made.trainable()
        manifest = Manifest(
            model=candidate.model,
            run=candidate.run.id,
            trainer=candidate.fitted.format,
            feature_service=service,
            feature_service_fingerprint=made.definitions.get(f"feature_service:{service}", ""),
            definitions=made.definitions,
            training_set=made.id,
            training_set_hash=made.content_hash,
            snapshot=made.spine_snapshot,
            signature=Signature(encoding=candidate.fitted.encoding, label=label),
            metrics={
                f"validation_{name}": value
                for name, value in binary_metrics(candidate.validation.labels, scores).items()
            },
            facts={**candidate.fitted.facts, "onnx_worst_difference": worst},
            importance=dict(candidate.fitted.importance),
            native_format=candidate.fitted.format,
            created_at=candidate.run.started_at,
        )
        statistics = statistics_of(candidate.fitted.encoding, candidate.train.matrix, scores)
        return self._bundles.keep(
            manifest,
            {
                MODEL: onnx,
                NATIVE: candidate.fitted.data,
                STATISTICS: statistics.model_dump_json().encode(),
                CARD: card(manifest, owner=candidate.run.started_by).encode(),
            },
            of_training(self._bundles.builder, manifest, candidate.run, made),
        )

    def register(self, call: Call, model: str, run: str, bundle: str) -> int:
        """Add the bundle as the next version of the model; a repeat returns the first."""
        return self._registry.register(call, model, run=run, bundle=bundle).version
