"""Parity: what was served online, computed again offline, must be the same.

Requests are recomputed from the lake as of the instant at which they were served. A feature
agrees if it is equal (count, min, max, last, latest values) or within 1e-9 relative, for
which a sum of many values has room; NaN agrees with NaN, null with null.

The requests are those that were really answered, with their request fields, if the logs
hold some; else they are made up from the keys in the lake. What reached the lake only after
a request was answered is no mismatch: a value that differs is computed again from the
lake as it stood when it was served.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from falaj.features.answers import Mismatch, ParityReport, ParitySource
from falaj.features.model import Knowledge
from falaj.features.plan import ServicePlan
from falaj.features.store import FeatureStore, spine_of
from falaj.kernel.clock import microseconds

TOLERANCE = 1e-9
SINGLE_TOLERANCE = 1e-6
"""For values that were kept as float32."""
LAG_US = 15_000_000
"""How far the lake and the online store may be apart: what is pushed reaches the lake every
few seconds, and what is loaded reaches the online store a moment later."""
MOST_SNAPSHOTS = 40
_TOLD = 20


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Served:
    """Requests as they were answered.

    ``rows`` are the request rows, ``at_us`` their instants (UTC microseconds), ``values``
    the vectors by ``columns`` (by default the service's). ``stated`` turns a value as it is
    computed into what the log would hold of it; ``tolerance`` is relative.
    """

    rows: Sequence[Mapping[str, Any]]
    at_us: Sequence[int]
    values: Sequence[Sequence[Any]]
    columns: Sequence[str] | None = None
    stated: Callable[[Any], Any] = _as_it_is
    tolerance: float = TOLERANCE

    def sample(self, n: int, *, seed: int) -> Served:
        """At most n of the requests, chosen by a seed."""
        if len(self.rows) <= n:
            return self
        return self.at(sorted(random.Random(seed).sample(range(len(self.rows)), n)))  # noqa: S311

    def at(self, places: Sequence[int]) -> Served:
        """Some of the requests, by their places."""
        return replace(
            self,
            rows=[self.rows[i] for i in places],
            at_us=[self.at_us[i] for i in places],
            values=[self.values[i] for i in places],
        )


class ServedRequests(Protocol):
    """Finds requests that were answered."""

    def sample(
        self, plan: ServicePlan, n: int, *, seed: int
    ) -> Sequence[tuple[ServicePlan, Served]]:
        """At most about n of the newest requests for a service, in groups.

        Each group comes with the service as it was compiled for it. Only requests that
        were answered as of the instant at which they came are among them.
        """
        ...


Differences = dict[tuple[int, str], tuple[Any, Any]]
"""(online, offline) by row and feature."""


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
    return _report(plan, served, at, _differences(store, plan, served, at))


def _differences(
    store: FeatureStore, plan: ServicePlan, served: Served, snapshot: int
) -> Differences:
    spine = spine_of(served.rows, served.at_us, plan)
    frame = store.training_frame(spine, plan, knowledge=Knowledge.RECORDED, snapshot=snapshot)
    found: Differences = {}
    for place, name in enumerate(served.columns or plan.outputs):
        for row, value in enumerate(_plain(frame[name])):
            online, offline = served.values[row][place], served.stated(value)
            if not agree(online, offline, served.tolerance):
                found[row, name] = (online, offline)
    return found


def _report(
    plan: ServicePlan, served: Served, snapshot: int, differences: Differences
) -> ParityReport:
    by_feature: dict[str, int] = {}
    for _, name in differences:
        by_feature[name] = by_feature.get(name, 0) + 1
    examples = [
        Mismatch(
            row=row,
            feature=name,
            online=online,
            offline=offline,
            keys={column: served.rows[row].get(column) for column in plan.spine_columns},
        )
        for (row, name), (online, offline) in list(differences.items())[:_TOLD]
    ]
    return ParityReport(
        service=plan.service.name,
        snapshot=snapshot,
        n_rows=len(served.rows),
        n_values=len(served.rows) * len(served.columns or plan.outputs),
        n_mismatches=len(differences),
        by_feature=by_feature,
        examples=examples,
    )


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    found: list[Any] = column.to_pylist()
    return found


def agree(online: Any, offline: Any, tolerance: float = TOLERANCE) -> bool:
    """True if two values of a feature are the same, sums within the tolerance."""
    if online is None or offline is None:
        return online is offline
    if isinstance(online, list | tuple) and isinstance(offline, list | tuple):
        return len(online) == len(offline) and all(
            agree(one, other, tolerance) for one, other in zip(online, offline, strict=True)
        )
    if isinstance(online, float) and isinstance(offline, float):
        if math.isnan(online) or math.isnan(offline):
            return math.isnan(online) and math.isnan(offline)
        return math.isclose(online, offline, rel_tol=tolerance, abs_tol=1e-12)
    return bool(online == offline)


class Parity:
    """Checks services.

    Args:
        store: reads both sides.
        served: finds requests that were answered; without it all are made up.
    """

    def __init__(self, store: FeatureStore, served: ServedRequests | None = None) -> None:
        self.store = store
        self._served = served

    def checked(
        self, service: str, n: int, *, at: datetime | None = None, seed: int = 0
    ) -> ParityReport:
        """Check requests that were served, or sampled ones if there are none.

        Args:
            service: its name.
            n: how many requests.
            at: sample as of this instant, whatever was served.
            seed: chooses among the requests.

        Raises:
            NotFound: no such service.
        """
        plan = self.store.plan(service)
        if at is None and self._served is not None:
            groups = self._served.sample(plan, n, seed=seed)
            if any(len(served.rows) for _, served in groups):
                return self._as_served(service, groups)
        return self.sampled(service, n, at=at, seed=seed)

    def _as_served(
        self, service: str, groups: Sequence[tuple[ServicePlan, Served]]
    ) -> ParityReport:
        reports = [self._once_served(plan, served) for plan, served in groups if served.rows]
        by_feature: dict[str, int] = {}
        for report in reports:
            for name, number in report.by_feature.items():
                by_feature[name] = by_feature.get(name, 0) + number
        return ParityReport(
            service=service,
            source=ParitySource.SERVED,
            snapshot=reports[0].snapshot,
            n_rows=sum(report.n_rows for report in reports),
            n_values=sum(report.n_values for report in reports),
            n_mismatches=sum(report.n_mismatches for report in reports),
            by_feature=by_feature,
            examples=[one for report in reports for one in report.examples][:_TOLD],
        )

    def _once_served(self, plan: ServicePlan, served: Served) -> ParityReport:
        self.store.settle(plan)
        latest = self.store.lake.latest()
        differences = _differences(self.store, plan, served, latest)
        for snapshot, places in self._as_of(served, sorted({row for row, _ in differences})):
            again = _differences(self.store, plan, served.at(places), snapshot)
            still = {(places[row], name) for row, name in again}
            agreed = {key for key in differences if key[0] in places and key not in still}
            differences = {key: two for key, two in differences.items() if key not in agreed}
        return _report(plan, served, latest, differences)

    def _as_of(self, served: Served, rows: Sequence[int]) -> list[tuple[int, list[int]]]:
        """The snapshots of the lake around the instants at which these requests were served,
        each with the requests that it counts for."""
        if not rows:
            return []
        kept = self.store.lake.snapshots()
        made = [microseconds(one.at) for one in kept]
        found: dict[int, list[int]] = {}
        for row in rows:
            first = bisect_right(made, served.at_us[row] - LAG_US) - 1
            last = bisect_right(made, served.at_us[row] + LAG_US) - 1
            for place in range(max(first, 0), last + 1):
                found.setdefault(kept[place].id, []).append(row)
        return sorted(found.items(), reverse=True)[:MOST_SNAPSHOTS]

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
        plan = self.store.plan(service)
        report = self._once(plan, n, at, seed)
        return report if report.agrees else self._once(plan, n, at, seed)

    def _once(self, plan: ServicePlan, n: int, at: datetime | None, seed: int) -> ParityReport:
        self.store.settle(plan)
        snapshot = self.store.lake.latest()
        rows: list[dict[str, Any]] = [dict.fromkeys(plan.request_fields) for _ in range(n)]
        chance, newest = np.random.default_rng(seed), 0
        for use in plan.views:
            events = self.store.events(use.plan, snapshot)
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
        found = self.store.reader(plan).read(rows, times)
        return check(self.store, plan, Served(rows, times, found.values), snapshot=snapshot)
