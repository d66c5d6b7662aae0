"""Drift: what a model sees and says now, against what it saw and said before.

Values are counted on the edges that were frozen with the model (quantiles of its training
rows), so the cost is one pass of counting, and the counts have no error of their own. A
feature has drifted if the difference is surely there (chi-squared, and a test of the share
of missing values, Benjamini-Hochberg over all features) *and* large (PSI over deciles, or
the missing share, or another measure that has a limit). Missing values are counted apart:
they do not blur the distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.ports import Lake
from falaj.models.bundles import Bundles
from falaj.models.model import Statistics
from falaj.monitoring.answered import answered
from falaj.monitoring.comparing import compared, weighted
from falaj.monitoring.driftwords import (
    DriftLimits,
    DriftReference,
    DriftReport,
    FeatureDrift,
    QualityLimits,
)
from falaj.monitoring.findings import found
from falaj.monitoring.measures import measured
from falaj.monitoring.model import NoPredictions
from falaj.monitoring.references import Window, told, windows_of
from falaj.monitoring.seen import Layout, Seen, seen_in, seen_in_training
from falaj.monitoring.sketches import Bins, Sketch
from falaj.serving.model import Release
from falaj.serving.names import table_of

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import Connection

    from falaj.kernel.database import Database
    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.serving.model import Variant

LEAST_SHOWN = 20
"""Predictions that a window needs to be compared: fewer would tell of single requests."""
_BUNDLES = 100
_PARTS = 1_000_000
_MORE = 1.2
"""So many times the rows that are wanted are read: chance and erasures leave enough."""
_TRAINING = DriftReference()
_QUALITY = QualityLimits()


@dataclass(frozen=True)
class Frozen:
    """What a bundle froze for comparisons; a bundle never changes."""

    statistics: Statistics
    bins: Bins
    layout: Layout
    training: Seen
    importance: Mapping[str, float]


class Drift:
    """Reports drift from kept sketches, or from the rows of the prediction log.

    Args:
        lake: holds the prediction log.
        bundles: hold the frozen statistics of each model version.
        kept: the sketches of the prediction log; None to read rows always.
        database: where the sketches are kept.
    """

    def __init__(
        self,
        lake: Lake,
        bundles: Bundles,
        kept: KeptSketches | None = None,
        database: Database | None = None,
    ) -> None:
        self.lake = lake
        self._bundles = bundles
        self._kept = kept
        self._database = database
        self.frozen = lru_cache(_BUNDLES)(self._opened)

    def report(
        self,
        release: Release,
        since: datetime,
        until: datetime,
        limits: DriftLimits,
        *,
        exact: bool = False,
        reference: DriftReference = _TRAINING,
        quality: QualityLimits | None = _QUALITY,
    ) -> DriftReport:
        """Compare the predictions of a release's model version over [since, until).

        Args:
            release: whose first variant is looked at, in all releases that served it.
            since, until: the instants that the predictions are about.
            limits: when a difference is a drift.
            exact: read every row, in the place of the sketches of minutes that begin in the
                window. Rows are read as well where there is no sketch.
            reference: what they are compared with.
            quality: when values are faulty; None to look for no faults.

        Raises:
            NoPredictions: there are fewer than 20 such predictions, or in the reference's windows.
            Corrupt: the bundle does not verify.
            InvalidInput: the endpoint serves a composition.
        """
        variant = _watched(release)
        frozen = self.frozen(variant.bundle)
        source, sketch = self._sketch(release.endpoint, variant, frozen, (since, until), exact)
        _check_enough(release.endpoint, variant, (since, until), sketch.n)
        seen = seen_in(sketch, frozen.layout)
        before = frozen.training
        windows = windows_of(reference, since, until)
        if windows:
            parts = [self._sketch(release.endpoint, variant, frozen, one, exact) for one in windows]
            if any(read == "rows" and one.n for read, one in parts):
                source = "rows"
            whole = parts[0][1]
            for _, one in parts[1:]:
                whole += one
            whole_window = (windows[-1][0], windows[0][1])
            try:
                _check_enough(release.endpoint, variant, whole_window, whole.n)
            except NoPredictions as error:
                if reference.kind != "fixed":
                    raise
                # It will never have any: somebody has to name another one.
                raise NotFound(error.message, hint="Name another window as reference.") from None
            before = seen_in(whole, frozen.layout)
        distances = measured(frozen.layout, before, seen)
        columns = compared(frozen.layout, before, seen, distances, limits)
        weigh(columns[:-1], frozen.importance)
        return DriftReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            bundle=variant.bundle,
            since=since,
            until=until,
            n_reference=before.n,
            n_observed=seen.n,
            source=source,
            against=told(reference, since, until),
            limits=limits,
            features=columns[:-1],
            score=columns[-1],
            weighted_psi=weighted(columns[:-1]),
            findings=[] if quality is None
            else found(frozen.layout, before, seen, distances, quality),
        )  # fmt: skip

    def minutes(
        self, connection: Connection, release: Release, since: datetime, until: datetime
    ) -> list[tuple[datetime, Seen]]:
        """What was seen in each minute of [since, until) of which there is a kept sketch.

        Raises:
            InvalidInput: the endpoint serves a composition.
        """
        variant = _watched(release)
        if self._kept is None:
            return []
        layout = self.frozen(variant.bundle).layout
        kept = self._kept.minutes(
            connection, release.endpoint, variant.model, variant.version, since, until
        )
        return [(at, seen_in(sketch, layout)) for at, sketch in kept]

    def sample(
        self, release: Release, window: Window, n: int, *, seed: int = 0
    ) -> NDArray[np.float64]:
        """Random rows of a window as the model read them, (rows, inputs), at most ``n``.

        Raises:
            InvalidInput: the endpoint serves a composition.
        """
        variant = _watched(release)
        width = len(self.frozen(variant.bundle).bins.names)
        table = table_of(release.endpoint)
        if not self.lake.exists(table):
            return np.zeros((0, width))
        features = self._logged(
            release.endpoint, variant, *window, columns=("features",), most=n, seed=seed
        ).column("features")
        chosen = np.random.default_rng(seed).permutation(len(features))[:n]
        return _matrix(features.take(np.sort(chosen)).combine_chunks(), width).astype(np.float64)

    def names(self, release: Release) -> tuple[str, ...]:
        """The names of the inputs of a release's first variant, in their order."""
        return self.frozen(_watched(release).bundle).bins.names

    def _opened(self, bundle: str) -> Frozen:
        opened = self._bundles.open_bundle(bundle)
        statistics = opened.statistics
        layout = Layout.of(statistics)
        return Frozen(
            statistics,
            Bins.of(statistics),
            layout,
            seen_in_training(statistics, layout),
            opened.manifest.importance,
        )

    def _sketch(
        self,
        endpoint: str,
        variant: Variant,
        frozen: Frozen,
        window: Window,
        exact: bool,
    ) -> tuple[Literal["sketches", "rows"], Sketch]:
        kept = None if exact else self._remembered(endpoint, variant, *window)
        if kept is not None:
            return "sketches", kept
        sketch = self._counted(endpoint, variant, frozen, *window)
        return "rows", sketch

    def _remembered(
        self, endpoint: str, variant: Variant, since: datetime, until: datetime
    ) -> Sketch | None:
        """From what was kept; None if nothing was."""
        if self._kept is None or self._database is None:
            return None
        with self._database.reading() as connection:
            kept = self._kept.window(
                connection, endpoint, variant.model, variant.version, since, until
            )
        return kept if kept.n else None

    def _counted(
        self, endpoint: str, variant: Variant, frozen: Frozen, since: datetime, until: datetime
    ) -> Sketch:
        """From the rows themselves."""
        bins = frozen.bins
        sketch = Sketch.empty(bins)
        table = table_of(endpoint)
        if not self.lake.exists(table):
            return sketch
        rows = self._logged(endpoint, variant, since, until)
        for batch in rows.to_batches(max_chunksize=65_536):
            matrix = _matrix(batch.column(0), len(bins.names))
            sketch += Sketch.of(bins, matrix, _column(batch.column(1)))
        return sketch

    def _logged(
        self,
        endpoint: str,
        variant: Variant,
        since: datetime,
        until: datetime,
        *,
        columns: Sequence[str] = ("features", "score"),
        most: int | None = None,
        seed: int = 0,
    ) -> pa.Table:
        """The rows of a window; of more than ``most`` about a fifth more than that, by chance."""
        table = table_of(endpoint)
        told, _ = answered(self.lake, table)
        where = (
            "model = $model AND version = $version "
            f"AND predicted_for >= $since AND predicted_for < $until AND {told}"
        )
        bound: dict[str, Any] = {
            "model": variant.model, "version": variant.version, "since": since, "until": until,
        }  # fmt: skip
        if most is not None:
            counted = self.lake.query(
                f'SELECT count(*) AS n FROM "{table}" WHERE {where}', parameters=bound
            )
            n = int(counted.column("n")[0].as_py())
            if n > most * _MORE:
                # What is chosen follows from the ids, so that only these rows are read.
                where += " AND hash(prediction_id, $seed) % $parts < $chosen"
                bound |= {"seed": seed, "parts": _PARTS, "chosen": ceil(most * _MORE / n * _PARTS)}
        rows = self.lake.scan(table, columns=columns, where=where, parameters=bound)
        # What is known no more, because the person was erased, counts no more.
        return rows.filter(rows.column("features").is_valid())


def weigh(columns: list[FeatureDrift], importance: Mapping[str, float]) -> None:
    """Note of each input its share of the model's importance, if the bundle tells any."""
    total = sum(max(importance.get(one.name, 0.0), 0.0) for one in columns)
    if total > 0:
        for one in columns:
            one.weight = max(importance.get(one.name, 0.0), 0.0) / total


def _watched(release: Release) -> Variant:
    variant = release.variants[0]
    if variant.members:
        raise InvalidInput(
            f"{release.endpoint!r} serves a composition, which has no rows of its own that "
            "it was trained on.",
            hint="Watch its members through endpoints of their own.",
        )
    return variant


def _nothing(endpoint: str, variant: Variant, window: Window) -> NoPredictions:
    return NoPredictions(
        f"{endpoint!r} has no logged predictions of {variant.label} between "
        f"{window[0]:%Y-%m-%d %H:%M} and {window[1]:%Y-%m-%d %H:%M}.",
        hint="Ask for another window; fresh predictions reach the log within seconds.",
    )


def _check_enough(endpoint: str, variant: Variant, window: Window, n: int) -> None:
    if not n:
        raise _nothing(endpoint, variant, window)
    if n < LEAST_SHOWN:
        raise NoPredictions(
            f"{endpoint!r} has fewer than {LEAST_SHOWN} logged predictions of {variant.label} "
            f"between {window[0]:%Y-%m-%d %H:%M} and {window[1]:%Y-%m-%d %H:%M}: distances over "
            "so few would tell of single requests.",
            hint="Ask for a longer window.",
        )


def _matrix(column: Any, n_inputs: int) -> NDArray[np.float32]:
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float32).reshape(-1, n_inputs)


def _column(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
