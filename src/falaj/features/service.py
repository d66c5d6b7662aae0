"""The actions of features: what there is, read, push, materialise, prove."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from falaj.features import parity_records
from falaj.features.answers import (
    Ack,
    FeatureItem,
    FeatureStatistic,
    KeptParity,
    OnlineRow,
    OnlineRows,
    ParityReport,
    Pushed,
    StreamStatus,
)
from falaj.features.model import FeatureService, FeatureView, OnDemandFeatures
from falaj.features.purposes import permitted
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.clock import from_microseconds
from falaj.kernel.errors import InvalidInput, LimitExceeded, Unavailable
from falaj.kernel.jobs import Job, Jobs

if TYPE_CHECKING:
    from falaj.features.parity_checks import ParityChecks
    from falaj.features.store import FeatureStore
    from falaj.features.versions import Retirement

Items = list[FeatureItem]
ParityHistory = list[KeptParity]
StatisticList = list[FeatureStatistic]
Limit = Annotated[int, Field(ge=1, le=1000)]
Statuses = list[StreamStatus]
Rows = list[dict[str, Any]]
Visible = Callable[[Call, AssetRef], bool]
"""True if the caller may know of the asset."""
MATERIALIZE = "features.materialize"
FORGET = "features.forget"
"""The job that removes the online rows of a retired version."""
MOST_ROWS = 10_000
MOST_SAMPLED = 5_000


class Features(Service):
    """Features: computed once from a definition, read for training and for serving."""

    name = "features"

    def __init__(
        self,
        store: FeatureStore,
        parity: ParityChecks,
        jobs: Jobs,
        visible: Visible,
        retirement: Retirement | None = None,
    ) -> None:
        self._store = store
        self._parity = parity
        self._jobs = jobs
        self._visible = visible
        self._retirement = retirement

    @action(get="/features")
    def list(self, *, kind: str | None = None) -> Items:
        """The feature views, on-demand features and feature services that have been applied."""
        kinds = (FeatureView.kind, OnDemandFeatures.kind, FeatureService.kind)
        if kind is not None and kind not in kinds:
            raise InvalidInput(
                f"{kind!r} is not a kind of feature definition.", hint=f"Use {', '.join(kinds)}."
            )
        return [
            item
            for wanted in ([kind] if kind else kinds)
            for item in self._store.items(wanted)
            if self._visible(self.call, AssetRef(wanted, item.name))
        ]

    @action(post="/feature-services/{name}/vectors", on="feature_service", reads=True)
    def read(self, name: str, *, rows: Rows, at: datetime | None = None) -> OnlineRows:
        """The vectors of a feature service for some requests, from the online store.

        ``rows`` hold the entity keys and request fields of each; ``at`` is now by default.
        """
        _limited(len(rows))
        when = at or self.call.now
        if when.tzinfo is None:
            raise InvalidInput("`at` has no time zone.", hint="Write it as 2026-01-31T12:00:00Z.")
        plan = self._store.plan(name)
        permitted(plan, self.call.caller.purpose)
        found = self._store.read_online(plan, rows, when)
        self.call.note(n_rows=len(rows))
        return OnlineRows(
            service=name,
            at=when,
            rows=[
                OnlineRow(
                    values=dict(zip(found.names, values, strict=True)),
                    statuses=dict(zip(found.names, statuses, strict=True)),
                    event_times={
                        view: None if time is None else from_microseconds(time)
                        for view, time in times.items()
                    },
                )
                for values, statuses, times in zip(
                    found.values, found.statuses, found.event_times, strict=True
                )
            ],
        )

    @action(post="/feature-sources/{table}/rows", on="table")
    def push(
        self,
        table: str,
        *,
        rows: Rows,
        key: str | None = None,
        ack: Ack = Ack.ONLINE,
        stored: bool = False,
    ) -> Pushed:
        """Add events to a source table and to the online rows of every view of it.

        ``key`` makes the push happen once. Timestamps are ISO 8601 with a zone. ``ack`` says
        what to wait for: that the events are durable, or that every read sees them.
        ``stored`` says that the table has these rows already: then only online is written.
        """
        _limited(len(rows))
        pushed = self._store.push_records(table, rows, key=key, ack=ack, stored=stored)
        self.call.note(n_rows=len(rows), snapshot=pushed.snapshot, repeated=pushed.repeated)
        return pushed

    @action(get="/feature-streams")
    def streams(self) -> Statuses:
        """How far each partition of each stream is: counts, watermark, lag, the lake."""
        streams = self._store.streams
        return [
            status
            for table in streams.tables()
            if self._visible(self.call, AssetRef("table", table))
            for status in streams.status(table)
        ]

    @action(post="/feature-views/{name}/materializations", on="feature_view")
    def materialize(self, name: str, *, upto: datetime | None = None) -> Job:
        """Bring the online rows of a view up to what the lake holds, as a job."""
        if upto is not None and upto.tzinfo is None:
            raise InvalidInput("`upto` has no time zone.", hint="Write it as 2026-01-31T12:00:00Z.")
        self._store.view_plan(name)
        arguments = {"view": name, "upto": upto.isoformat() if upto else None}
        return self._jobs.submit(self.call, MATERIALIZE, arguments)

    @action(get="/feature-views/{name}/statistics", on="feature_view")
    def statistics(
        self, name: str, *, feature: str | None = None, limit: Limit = 200
    ) -> StatisticList:
        """What the values of a view's features were, of each part that was written, newest first.

        Of personal and sensitive views, only how many rows and nulls there were.
        """
        from falaj.features.statistics import listed

        self._store.view_plan(name)
        return listed(self._store.lake, name, feature=feature, limit=limit)

    @action(post="/feature-views/{name}/retirements", on="feature_view")
    def retire(self, name: str, *, version: int) -> Job:
        """Keep a version of a view up to date no longer; a job removes its online rows.

        The current version, and one that a service or an endpoint takes, cannot be retired.
        """
        if self._retirement is None:
            raise Unavailable("This process cannot retire versions of views.")
        return self._jobs.submit(
            self.call, FORGET, self._retirement.retire(self.call, name, version)
        )

    @action(post="/feature-services/{name}/parity-checks", on="feature_service")
    def parity(
        self, name: str, *, sample: int = 200, at: datetime | None = None, seed: int = 0
    ) -> ParityReport:
        """Compute requests that were served again offline and compare; keep what is found.

        With ``at``, or where none were served, entities are sampled and read online.
        """
        if not 1 <= sample <= MOST_SAMPLED:
            raise InvalidInput(f"sample is {sample}; it is between 1 and {MOST_SAMPLED}.")
        return self._parity.checked(self.call, name, sample, at=at, seed=seed)

    @action(get="/feature-services/{name}/parity-checks", on="feature_service")
    def parity_history(self, name: str, *, limit: Limit = 50) -> ParityHistory:
        """The parity checks of a service that were made, the newest first: the trend."""
        self._store.plan(name)
        return parity_records.history(self.call.connection, name, limit=limit)


def _limited(n_rows: int) -> None:
    if n_rows > MOST_ROWS:
        raise LimitExceeded(
            f"{n_rows} rows are too many for one call.", hint=f"Send at most {MOST_ROWS} at once."
        )
