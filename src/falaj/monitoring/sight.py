"""What a caller may see of what monitoring reads: tables, labels, requests and kept reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, NotFound
from falaj.lake.sight import SeenInPart
from falaj.monitoring import toldfrom
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.lake.reading import GuardedLake
    from falaj.monitoring.model import KeptReport, Labels, Monitor
    from falaj.monitoring.performancewords import Slice

DEFAULT_WINDOW = timedelta(days=7)
May = Callable[[Call, str, AssetRef], bool]
"""True if the caller may do the named action on an asset, as the caller stands now."""


def asked_window(
    call: Call, since: datetime | None, until: datetime | None
) -> tuple[datetime, datetime]:
    """The window that a caller asks for: the last seven days, if neither end is named."""
    end = until or call.now
    return since or end - DEFAULT_WINDOW, end


class Sight:
    """Refuses what a caller may not read, all of it and in clear.

    All of it raises Forbidden, or SeenInPart where rows or columns are hidden from the caller.

    Args:
        may: see its type.
        guarded: the lake as each caller sees it.
    """

    def __init__(self, may: May, guarded: GuardedLake) -> None:
        self.may = may
        self._guarded = guarded

    def may_know(self, call: Call, endpoint: str) -> bool:
        """True if the caller may know of an endpoint."""
        return self.may(call, "assets.get", AssetRef("endpoint", endpoint))

    def check_known(self, call: Call, monitor: Monitor) -> None:
        """Return if the caller may know of a monitor's endpoint; else there is no such monitor.

        What a monitor declares and finds tells of its endpoint, whose classification may be
        stricter than its own.
        """
        if not self.may_know(call, monitor.endpoint):
            raise NotFound(f"There is no monitor {monitor.name!r}.", hint="`falaj monitors list`.")

    def check_table(self, call: Call, table: str, columns: Iterable[str] | None) -> None:
        """Return if the caller may read a table and these columns of it (None: all)."""
        if not self.may(call, "tables.read", AssetRef("table", table)):
            raise Forbidden(
                f"You may not read table:{table} as you stand.",
                hint="Personal data needs a purpose and a fresh second factor.",
            )
        self._guarded.check_clear(call, table, columns, todo="compare tables by")

    def check_monitor(self, call: Call, monitor: Monitor) -> None:
        """Return if the caller may read all that a check of the monitor reads."""
        quality = monitor.quality
        cuts = () if quality is None else (*quality.slices, *(q.groups for q in quality.fairness))
        if monitor.labels is not None:
            self.check_labels(call, monitor.labels, *cuts)
        for cut in cuts:
            self.check_slice(call, monitor.endpoint, cut)
        watch = monitor.drift_watch
        if monitor.leakage is not None or (watch is not None and watch.sample is not None):
            self.check_log(call, monitor.endpoint, ("features",))

    def check_kept(self, call: Call, kept: KeptReport) -> None:
        """Return if the caller may read what a kept report was told from."""
        self.check_told(call, toldfrom.of_kept(kept))

    def check_told(self, call: Call, told: toldfrom.ToldFrom) -> None:
        """Return if the caller may read these columns, of all rows and in clear."""
        for table, columns in sorted(told.items()):
            if not self.may(call, "tables.read", AssetRef("table", table)):
                raise Forbidden(
                    f"You may not read table:{table}, which this was told from, as you stand.",
                    hint="Personal data needs a purpose and a fresh second factor.",
                )
            self._guarded.check_clear(call, table, columns, todo="read figures of")

    def sees(self, call: Call, told: toldfrom.ToldFrom) -> bool:
        """True if the caller may read these columns."""
        try:
            self.check_told(call, told)
        except (Forbidden, SeenInPart, NotFound):
            return False
        return True

    def check_labels(self, call: Call, labels: Labels, *cuts: Slice) -> None:
        """Return if the caller may read the labels, all of them and in clear, and whatever else
        of their table rows are told apart by."""
        if not self.may(call, "tables.read", AssetRef("table", labels.table)):
            # Figures over a window of one row would tell that row's label.
            raise Forbidden(
                f"You may not read the labels in table:{labels.table} as you stand.",
                hint="Personal data needs a purpose and a fresh second factor.",
            )
        own = [cut.by for cut in cuts if cut.of == "label"]
        columns = [labels.label, labels.key or labels.on, labels.recorded_at, *own]
        self._guarded.check_clear(
            call, labels.table, filter(None, columns), todo="compare predictions with"
        )

    def check_slice(self, call: Call, endpoint: str, cut: Slice) -> None:
        """Return if the caller may read what tells rows of the log apart, in clear."""
        columns = toldfrom.LOG_COLUMNS.get(cut.of)
        if columns is not None:
            self.check_log(call, endpoint, columns)

    def check_log(self, call: Call, endpoint: str, columns: tuple[str, ...]) -> None:
        """Return if the caller may read these columns of the requests, in clear."""
        table = table_of(endpoint)
        if not self.may(call, "tables.read", AssetRef("table", table)):
            raise Forbidden(
                f"You may not read the requests in table:{table} as you stand.",
                hint="Personal data needs a purpose and a fresh second factor.",
            )
        self._guarded.check_clear(call, table, columns, todo="tell rows apart by")
