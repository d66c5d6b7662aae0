"""Compiles releases into request plans: bundles verified, models loaded and warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from falaj.kernel.clock import SystemClock, microseconds
from falaj.kernel.errors import InvalidInput
from falaj.kernel.telemetry import logger
from falaj.serving.anomalies import check_tagged, judge_of, warmed
from falaj.serving.compositions import ComposedModel, described
from falaj.serving.explain import Explanation
from falaj.serving.plan import RequestPlan
from falaj.serving.predictions import PredictionIds
from falaj.serving.variants import CompiledVariant

if TYPE_CHECKING:
    from falaj.serving.anomalies import Judge
    from falaj.serving.model import Release, ServableModel, Variant
    from falaj.serving.ports import Bundles, FeatureReader, FeatureReaders, LoadedModel, Runtime


def runtime_of(runtimes: Sequence[Runtime], model_format: str) -> Runtime:
    """The first runtime that loads a format; raises InvalidInput naming those there are."""
    for runtime in runtimes:
        if model_format in runtime.formats:
            return runtime
    known = sorted({name for runtime in runtimes for name in runtime.formats})
    raise InvalidInput(
        f"No runtime here loads models of format {model_format!r}.",
        hint=f"Known formats: {', '.join(known)}.",
    )


class PlanCompiler:
    """Compiles releases: opens and verifies their bundles, loads and warms their models.

    Args:
        bundles: opens bundles that verify.
        runtimes: one for each model format.
        features: compiles readers of feature services; None where there is no store.
    """

    def __init__(
        self, bundles: Bundles, runtimes: Sequence[Runtime], features: FeatureReaders | None
    ) -> None:
        self._bundles = bundles
        self._runtimes = runtimes
        self._features = features

    def compile(self, release: Release) -> RequestPlan:
        """The plan of a release, warm.

        Raises:
            Corrupt: a bundle does not verify, or is no model.
            NotFound: a bundle is not there.
            InvalidInput: a model's input is neither a feature nor a request field, or the release
                tags anomalies and a model has no isolation forest.
        """
        variants: list[CompiledVariant] = []
        twins: list[CompiledVariant] = []
        shadows: list[CompiledVariant] = []
        readers = self._readers(release), self._readers(release)
        shadow_readers = (self._readers(release),)
        for variant in release.variants:
            servable, model, judge = self._loaded(release, variant)
            if servable.outputs != release.outputs:
                raise InvalidInput(
                    f"{variant.label} gives {', '.join(servable.outputs)}; the release "
                    f"promises {', '.join(release.outputs)}.",
                    hint="Deploy the endpoint again.",
                )
            explanation = Explanation.of(self._runtimes, servable)
            placed = zip((variants, twins), readers, strict=True)
            if variant.shadow:
                placed = zip((shadows,), shadow_readers, strict=True)
            for compiled, reader_of in placed:
                reader = reader_of(servable)
                compiled.append(
                    CompiledVariant(release, variant, servable, model, reader, explanation, judge)
                )
            _warm(model, servable.sample)
            warmed(judge, servable.sample, len(servable.inputs))
        aside = RequestPlan(release, twins, PredictionIds(), shadows=shadows)
        return RequestPlan(release, variants, PredictionIds(), aside=aside, shadows=shadows)

    def _loaded(
        self, release: Release, variant: Variant
    ) -> tuple[ServableModel, LoadedModel, Judge | None]:
        """A variant's model, or its members as one, and what judges its inputs; every bundle is
        verified."""
        models = [self._bundles.open(member.bundle) for member in variant.pinned]
        check_tagged(release, variant, models)
        loaded = [runtime_of(self._runtimes, one.format).load(one) for one in models]
        if not variant.members:
            return models[0], loaded[0], judge_of(models, None)
        whole = described(variant, models)
        composed = ComposedModel(variant, whole, models, loaded)
        return whole, composed, judge_of(models, composed)

    def _readers(self, release: Release) -> Callable[[ServableModel], FeatureReader | None]:
        """Gives the reader of each model; models that read the same have the same one."""
        made: dict[tuple[tuple[str, tuple[str, ...]], ...], FeatureReader] = {}

        def reader_of(servable: ServableModel) -> FeatureReader | None:
            if release.features is None:
                return None
            categories = {name: tuple(words) for name, words in servable.categories.items()}
            key = tuple(sorted(categories.items()))
            if key not in made:
                made[key] = self._reader(release, categories)
            reader = made[key]
            # A service of request fields alone is the request itself.
            return None if reader.asks_nothing else reader

        return reader_of

    def _reader(self, release: Release, categories: Mapping[str, tuple[str, ...]]) -> FeatureReader:
        if self._features is None:
            raise InvalidInput(
                f"The release {release.id} needs the feature service {release.feature_service!r}, "
                "and this worker has no online store.",
                hint="Set `online` in the settings.",
            )
        reader = self._features.compile(release.features or {}, categories)
        if not reader.asks_nothing:
            _warm_reader(reader, release)
        return reader


def _warm_reader(reader: FeatureReader, release: Release) -> None:
    """Read once, of nobody: what a first read imports and loads, no request waits for."""
    try:
        row = SimpleNamespace(**dict.fromkeys(item.name for item in release.fields))
        reader.read([row], microseconds(SystemClock().now()))
    except Exception as error:  # noqa: BLE001 - an on-demand function may not bear nulls
        logger(__name__).debug("features not warmed", release=release.id, reason=str(error))


def _warm(model: LoadedModel, sample: tuple[tuple[float, ...], ...]) -> None:
    rows = np.array(sample or [[0.0] * model.n_inputs], dtype=np.float32)
    for n in (1, 1, len(rows)):
        model.run(np.ascontiguousarray(rows[:n]))
