"""Leakage in production: features that know what they cannot know.

Two findings, told from the prediction log and labels that came later:

- ``from_the_future``: a prediction was made of a feature whose event lies after the instant that
  the prediction is for;
- ``label_like``: one feature by itself tells the label far better than it did on the rows that
  the model's gates were run on, or better than any honest feature should.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from falaj.kernel.errors import NotFound
from falaj.lake.personal import rule_of
from falaj.models.gating.leakagesigns import feature_power, sampled
from falaj.monitoring.answered import answered
from falaj.monitoring.joined import check_task
from falaj.monitoring.leakagewords import (
    FeatureTells,
    LeakageFinding,
    LeakageLimits,
    LeakageReport,
)
from falaj.monitoring.model import NoPredictions
from falaj.serving.names import table_of

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake
    from falaj.models.bundles import Bundles
    from falaj.monitoring.model import Labels
    from falaj.serving.model import Release

LEAST_OF_EACH = 30
"""Fewer rows of the rarer label tell nothing about single features."""
_TOLD = 10


class Leakage:
    """Looks for leakage.

    Args:
        lake: holds the prediction log and the labels.
        bundles: tell the names of a model's inputs.
    """

    def __init__(self, lake: Lake, bundles: Bundles) -> None:
        self._lake = lake
        self._bundles = bundles

    def report(
        self,
        release: Release,
        labels: Labels,
        since: datetime,
        until: datetime,
        limits: LeakageLimits,
        judged: Mapping[str, float],
    ) -> LeakageReport:
        """What the champion's predictions of [since, until) show.

        Args:
            release: that serves; its first variant is looked at.
            labels: where the truth arrives.
            judged: single features' AUC when the gates were run, as far as it is known.

        Raises:
            NotFound: there are no such predictions, or no label table.
        """
        variant = release.variants[0]
        rows = self._rows(release.endpoint, labels, since, until, variant.version)
        if not rows.num_rows:
            raise NoPredictions(
                f"{release.endpoint!r} has no logged predictions of version {variant.version} "
                f"between {since:%Y-%m-%d} and {until:%Y-%m-%d}.",
                hint="Ask for another window.",
            )
        early = int(np.count_nonzero(rows.column("early").to_numpy(zero_copy_only=False)))
        known = rows.filter(rows.column("label").is_valid())
        encoding = self._bundles.open_bundle(variant.bundle).manifest.signature.encoding
        strongest = _strongest(encoding.names, known, judged)
        return LeakageReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            since=since,
            until=until,
            n_predictions=rows.num_rows,
            n_labels=known.num_rows,
            n_from_the_future=early,
            limits=limits,
            strongest=strongest[:_TOLD],
            findings=[
                *_from_the_future(early, rows.num_rows),
                *_label_like(strongest, limits, known.num_rows),
            ],
        )

    def _rows(
        self, endpoint: str, labels: Labels, since: datetime, until: datetime, version: int
    ) -> pa.Table:
        table = table_of(endpoint)
        check_task(labels, ("binary",))
        if not self._lake.exists(table):
            raise NoPredictions(
                f"{endpoint!r} has no logged predictions: there is no table {table!r} yet.",
                hint="Fresh predictions reach the log within seconds.",
            )
        if not self._lake.exists(labels.table):
            raise NotFound(
                f"There is no label table {labels.table!r} in the lake yet.",
                hint="`falaj tables list` shows what there is.",
            )
        key = labels.key or labels.on
        latest = f'"{labels.recorded_at}" DESC, ' if labels.recorded_at else ""
        inputs: dict[str, pa.Table] = {}
        logged, labelled = table, labels.table
        when = {"since": since, "until": until}
        told, own = answered(self._lake, table)
        if rule_of(self._lake, table) is not None:
            read = ["predicted_for", "version", "features", "features_at", labels.on, *own]
            window = "predicted_for >= $since AND predicted_for < $until"
            inputs["logged"] = self._lake.scan(table, columns=read, where=window, parameters=when)
            logged = "logged"
        if rule_of(self._lake, labels.table) is not None:
            told_by = [one for one in (key, labels.label, labels.recorded_at) if one]
            inputs["labelled"] = self._lake.scan(labels.table, columns=told_by)
            labelled = "labelled"
        return self._lake.query(
            f"""
            WITH truths AS (
                SELECT CAST("{key}" AS VARCHAR) AS key, CAST("{labels.label}" AS DOUBLE) AS label
                FROM {labelled} WHERE "{labels.label}" IS NOT NULL
                QUALIFY row_number() OVER (PARTITION BY "{key}" ORDER BY {latest}label DESC) = 1
            )
            SELECT p.features, t.label,
                   coalesce(p.features_at > p.predicted_for, false) AS early
            FROM {logged} p LEFT JOIN truths t ON p.{labels.on} = t.key
            WHERE p.predicted_for >= $since AND p.predicted_for < $until AND p.version = $version
            AND {told}
            """,
            parameters={**when, "version": version},
            inputs=inputs,
        )


def _strongest(
    names: tuple[str, ...], known: pa.Table, judged: Mapping[str, float]
) -> list[FeatureTells]:
    labels = np.asarray(known.column("label").to_numpy(zero_copy_only=False), dtype=np.float64)
    if min(labels.sum(), labels.size - labels.sum()) < LEAST_OF_EACH:
        return []
    places = sampled(labels.size)
    flat = known.column("features").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix = np.asarray(flat, dtype=np.float32).reshape(labels.size, len(names))
    # The gates keep the strongest only: of the others it is known that they were no stronger.
    weakest = min(judged.values(), default=None)
    return [
        FeatureTells(name=one.feature, auc=one.auc, auc_judged=judged.get(one.feature, weakest))
        for one in feature_power(names, matrix[places], labels[places])
    ]


def _from_the_future(n: int, of: int) -> list[LeakageFinding]:
    if not n:
        return []
    told = f"{n:,} of {of:,} predictions were made of a feature whose event lies after the instant"
    return [
        LeakageFinding(
            name="from_the_future",
            column="",
            numbers={"predictions": float(n), "share": n / of},
            sentence=f"{told} that they are for.",
        )
    ]


def _label_like(
    strongest: list[FeatureTells], limits: LeakageLimits, n: int
) -> list[LeakageFinding]:
    found = []
    for one in strongest:
        gain = None if one.auc_judged is None else one.auc - one.auc_judged
        # What is beyond its own standard error by so little may be chance.
        sure = 2 / n**0.5
        above = one.auc >= limits.feature_auc
        grown = gain is not None and gain >= limits.gain + sure
        if not (above or grown):
            continue
        then = "" if one.auc_judged is None else f", {one.auc_judged:.2f} when it was judged"
        found.append(
            LeakageFinding(
                name="label_like",
                column=one.name,
                numbers={"auc": one.auc, "labels": float(n)}
                | ({} if one.auc_judged is None else {"auc_judged": one.auc_judged}),
                sentence=f"{one.name} by itself tells the label with an AUC of {one.auc:.2f}{then}:"
                " it may hold what is known afterwards only.",
            )
        )
    return found
