"""What the feature store answers: plain models, light to import."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from falaj.features.model import Status


class Ack(StrEnum):
    """What a push waits for."""

    LOG = "log"
    """The rows are durable in the event log; the worker brings them online and into the lake."""
    ONLINE = "online"
    """Every later read sees them, or newer ones."""


class Answer(BaseModel):
    """Frozen."""

    model_config = ConfigDict(frozen=True)


class Pushed(Answer):
    """What a push did."""

    snapshot: int | None
    """The lake snapshot that holds the rows; None while they stand in the event log."""
    views: tuple[str, ...]
    """The views whose online rows it reached."""
    n_events: int
    """The rows that were taken."""
    repeated: bool = False
    """True if a push with the same key had been applied before: nothing was changed."""


class StreamStatus(Answer):
    """How far one partition of a stream is; the counts are of events since the online store
    was made."""

    stream: str
    partition: int
    watermark: datetime | None
    """The newest event time seen; None before the first event."""
    n_applied: int
    n_late: int
    """Events that came too late, counted once for each view that they were late for."""
    n_dead: int
    """Rows that could not be read, did not fit or broke a contract."""
    lag_records: int
    """Records of the log that wait to be applied online."""
    lag_seconds: float
    """How long the oldest of those has waited."""
    lake_lag_records: int
    """Records that were applied and wait for the lake."""
    partial_views: tuple[str, ...]
    """Views that lack events from before they were made, until they are materialised."""
    n_erased: int = 0
    """Rows that were left out because the key of the person whom they are about is gone."""


class Materialized(Answer):
    """What a materialisation did."""

    view: str
    snapshot: int
    n_events: int
    n_entities: int


class OnlineRow(Answer):
    """One vector as it was read."""

    values: dict[str, Any]
    """By column; None is null, timestamps are UTC microseconds."""
    statuses: dict[str, Status]
    event_times: dict[str, datetime | None]
    """Of each view, when its newest stored event happened."""


class OnlineRows(Answer):
    """The vectors of one read."""

    service: str
    at: datetime
    rows: list[OnlineRow]


class FeatureItem(Answer):
    """A view, an on-demand definition or a service, in a list."""

    kind: str
    name: str
    description: str
    features: dict[str, str]
    """Name and type; of a service, what it takes."""
    versions: dict[str, str] = {}
    """Of a view: by number, which version is current, live or retired."""
    standing: str = ""
    """The same in words: ``2 current, 1 live``."""


class Mismatch(Answer):
    """One feature of one request that differed."""

    row: int
    feature: str
    online: Any
    offline: Any
    keys: dict[str, Any]


class ParitySource(StrEnum):
    """Where the requests of a parity check came from."""

    SERVED = "served"
    """Requests that were answered, with their fields, from the logs of reads and predictions."""
    SAMPLED = "sampled"
    """Requests made up from keys in the lake, with null request fields."""


class ParityReport(Answer):
    """What a parity check found."""

    service: str
    source: ParitySource = ParitySource.SAMPLED
    snapshot: int
    n_rows: int
    n_values: int
    n_mismatches: int
    by_feature: dict[str, int]
    """Mismatches of each feature that has any."""
    examples: list[Mismatch]
    """The first few."""

    def without_values(self) -> ParityReport:
        """The same without the keys and values of the examples."""
        return self.model_copy(update={"examples": []})

    @property
    def agrees(self) -> bool:
        """True if nothing differed."""
        return self.n_mismatches == 0


class KeptParity(Answer):
    """A parity check that was kept."""

    id: str
    at: datetime
    by: str
    report: ParityReport


class FeatureStatistic(Answer):
    """What the values of a feature were in one part of the log of its source.

    Of a window view: of the values that go into the aggregate. Figures are null where they
    have no meaning, and all but the counts where values are personal or sensitive.
    """

    view: str
    version: int
    feature: str
    dtype: str
    snapshot: int
    """The lake snapshot that was read."""
    at: datetime
    since: int
    """Positions of the source's log: from ``since`` to before ``until``."""
    until: int
    n: int
    n_null: int
    n_not_finite: int
    """Values that are NaN or infinite; mean, std and quantiles leave them out."""
    mean: float | None
    std: float | None
    """Of the whole part (divided by n)."""
    min: float | None
    max: float | None
    quantiles: dict[str, float]
    """By share, inverted CDF."""
    n_distinct: int | None
    """Of text, how many different ones, counted up to 100,000."""
