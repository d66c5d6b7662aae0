"""Where the prediction log leaves its rows on this machine, and how they reach the lake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from falaj.lake.spool import Drain, Spool, rows_of
from falaj.serving.logged import are_records, rows_of_records

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake
    from falaj.trust.ports import KeyService


class DirectorySpools:
    """Spools in a directory, sealed; fulfils ``ports.Spools``."""

    def __init__(self, directory: Path, keys: KeyService) -> None:
        self._directory = directory
        self._keys = keys

    def open(self, table: str) -> Spool:
        """The spool of a table."""
        return Spool(self._directory, table, self._keys)


class PredictionDrain:
    """Moves what all workers of this machine have logged into the lake, exactly once.

    Args:
        directory: where the spools write.
        keys: opens their segments.
        lake: where the rows go.
    """

    def __init__(self, directory: Path, keys: KeyService, lake: Lake) -> None:
        self._directory = directory
        self._keys = keys
        self._lake = lake

    def run_once(self) -> int:
        """Move what waits now; returns the number of rows. Raises what the lake raises."""
        moved = 0
        if not self._directory.exists():
            return moved
        for folder in sorted(self._directory.iterdir()):
            if not folder.is_dir():
                continue
            drain = Drain(self._directory, self._keys, self._lake, folder.name, read=_rows)
            while True:
                round_ = drain.run_once()  # takes a bounded number of segments at a time
                moved += round_.n_rows
                if not round_.n_segments + round_.n_refused:
                    break
        return moved


def _rows(data: bytes) -> pa.Table:
    """The rows of a segment: of records, or of columns."""
    return rows_of_records(data) if are_records(data) else rows_of(data)
