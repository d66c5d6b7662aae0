"""Parity: what was served online, computed again offline, must be the same.

Sampled requests are recomputed from the lake as of the instant at which they were served.
A feature agrees if it is equal (count, min, max, last, latest values) or within 1e-9
relative, for which a sum of many values has room; NaN agrees with NaN, null with null.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.features.answers import Mismatch, ParityReport
from falaj.features.model import Knowledge
from falaj.features.plan import ServicePlan
from falaj.features.store import FeatureStore, spine_of
from falaj.kernel.clock import microseconds

TOLERANCE = 1e-9
_TOLD = 20


@dataclass(frozen=True)
class Served:
    """Requests as they were answered.

    ``rows`` are the request rows, ``at_us`` their instants (UTC microseconds), ``values``
    the vectors by the service's columns.
    """

    rows: Sequence[Mapping[str, Any]]
    at_us: Sequence[int]
    values: Sequence[Sequence[Any]]

    def sample(self, n: int, *, seed: int) -> Served:
        """At most n of the requests, chosen by a seed."""
        if len(self.rows) <= n:
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.rows)), n))  # noqa: S311
        return Served(
            [self.rows[i] for i in chosen],
            [self.at_us[i] for i in chosen],
            [self.values[i] for i in chosen],
        )


def check(
    store: FeatureStore,
    plan: ServicePlan,
    served: Served,
    *,
    snapshot: int | None = None,
) -> ParityReport:
    """Compute served vectors again offline and compare.

    Args:
        store: reads the lake.
        plan: the service as it was compiled for serving.
        served: what was answered.
        snapshot: the lake snapshot that holds what was known; by default the latest.

    Returns:
        A report; mismatches are counted, not raised.
    """
    if snapshot is None:
        store.settle(plan)
    at = store.lake.latest() if snapshot is None else snapshot
    spine = spine_of(served.rows, served.at_us, plan)
    frame = store.training_frame(spine, plan, knowledge=Knowledge.RECORDED, snapshot=at)
    by_feature: dict[str, int] = {}
    examples: list[Mismatch] = []
    for place, name in enumerate(plan.outputs):
        for row, offline in enumerate(_plain(frame[name])):
            online = served.values[row][place]
            if agree(online, offline):
                continue
            by_feature[name] = by_feature.get(name, 0) + 1
            if len(examples) < _TOLD:
                keys = {column: served.rows[row].get(column) for column in plan.spine_columns}
                examples.append(
                    Mismatch(row=row, feature=name, online=online, offline=offline, keys=keys)
                )
    return ParityReport(
        service=plan.service.name,
        snapshot=at,
        n_rows=len(served.rows),
        n_values=len(served.rows) * len(plan.outputs),
        n_mismatches=sum(by_feature.values()),
        by_feature=by_feature,
        examples=examples,
    )


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    found: list[Any] = column.to_pylist()
    return found


def agree(online: Any, offline: Any) -> bool:
    """True if two values of a feature are the same, sums within the tolerance."""
    if online is None or offline is None:
        return online is offline
    if isinstance(online, float) and isinstance(offline, float):
        if math.isnan(online) or math.isnan(offline):
            return math.isnan(online) and math.isnan(offline)
        return math.isclose(online, offline, rel_tol=TOLERANCE, abs_tol=1e-12)
    return bool(online == offline)


class Parity:
    """Checks services by sampled entities.

    Args:
        store: reads both sides.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def sampled(
        self, service: str, n: int, *, at: datetime | None = None, seed: int = 0
    ) -> ParityReport:
        """Read entities that have events online, and compute them again offline.

        Request fields are null. Rows that differ are read a second time, since an event
        may have come between the two readings.

        Args:
            service: its name.
            n: how many requests to make up from the keys in the lake.
            at: the instant; by default that of the newest event or record in the lake.
            seed: chooses the entities.

        Raises:
            NotFound: no such service.
        """
        plan = self._store.plan(service)
        report = self._once(plan, n, at, seed)
        return report if report.agrees else self._once(plan, n, at, seed)

    def _once(self, plan: ServicePlan, n: int, at: datetime | None, seed: int) -> ParityReport:
        self._store.settle(plan)
        snapshot = self._store.lake.latest()
        rows: list[dict[str, Any]] = [dict.fromkeys(plan.request_fields) for _ in range(n)]
        chance, newest = np.random.default_rng(seed), 0
        for use in plan.views:
            events = self._store.events(use.plan, snapshot)
            if not len(events):
                chosen = [(None,) * len(use.key_columns)] * n
            else:
                newest = max(newest, int(events.event_time.max()))
                if events.recorded_at is not None:
                    newest = max(newest, int(events.recorded_at.max()))
                picked = pa.array(chance.integers(0, len(events), n))
                taken = [key.take(picked).to_pylist() for key in events.keys]
                chosen = list(zip(*taken, strict=True))
            for row, values in zip(rows, chosen, strict=True):
                for column, value in zip(use.key_columns, values, strict=True):
                    row.setdefault(column, value)
        at_us = newest if at is None else microseconds(at)
        times = [at_us] * n
        found = self._store.reader(plan).read(rows, times)
        return check(self._store, plan, Served(rows, times, found.values), snapshot=snapshot)
