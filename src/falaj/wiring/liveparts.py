"""What is kept of persons on the way: online rows, events, predictions that wait for the lake."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.serving.personallog import SubjectOf
    from falaj.serving.spools import PredictionDrain
    from falaj.trust.subjects import SubjectCopies
    from falaj.wiring.assembly import Premises

_RELEASES = 10_000


def subject_of_releases(made: Premises) -> SubjectOf:
    """Tells of a release whom its predictions are about; a release never changes."""
    from falaj.serving.tables import release_row

    @lru_cache(_RELEASES)
    def subject_of(release: str) -> tuple[str, str] | None:
        with made.database.reading() as connection:
            row = release_row(connection, release)
        field = None if row is None else row.document.get("subject")
        return None if row is None or field is None else (field, row.document["subject_kind"])

    return subject_of


def prediction_drain(made: Premises, *, inside: bool = False) -> PredictionDrain:
    """Moves the prediction log of this machine into the lake.

    Args:
        inside: True if rows are moved inside a transaction of the metadata database.
    """
    from falaj.serving.spools import PredictionDrain

    return PredictionDrain(
        made.spool_folder,
        made.keys,
        made.lake,
        subject_of_releases(made),
        subjects=made.subject_keys,
        moved=kept_sketches(made).take_later if inside else kept_sketches(made).take,
    )


def kept_sketches(made: Premises) -> KeptSketches:
    """Sketches of the prediction log."""
    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.monitoring.sketches import Bins

    def bins_of(model: str, version: int) -> Bins:
        with made.database.reading() as connection:
            bundle = made.registry.version(connection, model, version).bundle
        return Bins.of(made.bundles.open_bundle(bundle).statistics)

    return KeptSketches(made.database, bins_of, made.clock)


def live_copies(made: Premises) -> Sequence[SubjectCopies]:
    """What is on its way, as the stores that an erasure looks through."""
    from falaj.features.streams.copies import LoggedEvents
    from falaj.features.subjectrows import OnlineRows

    rows = OnlineRows(made.features.definitions, made.online)
    return [rows, LoggedEvents(made.features.streams), prediction_drain(made, inside=True)]
