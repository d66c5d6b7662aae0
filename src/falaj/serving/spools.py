"""Where the prediction log leaves its rows on this machine, and how they reach the lake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.lake.spool import Drain, Spool, rows_of
from falaj.serving.logged import are_records, rows_of_records, with_all_columns
from falaj.serving.names import is_log
from falaj.serving.personallog import Latecomers, SubjectOf, people_of, with_subject

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake
    from falaj.trust.ports import KeyService
    from falaj.trust.subjects import SubjectKey, SubjectKeys


class DirectorySpools:
    """Spools in a directory, sealed; fulfils ``ports.Spools``."""

    def __init__(self, directory: Path, keys: KeyService) -> None:
        self._directory = directory
        self._keys = keys

    def open(self, table: str) -> Spool:
        """The spool of a table."""
        return Spool(self._directory, table, self._keys)


def _nobody(_release: str) -> None:
    """That predictions are about no person."""


class PredictionDrain:
    """Moves what all workers of this machine have logged into the lake, exactly once.

    What waits is sealed under the platform's keys, and not yet under those of persons: to an
    erasure it is a copy of its own (``SubjectCopies``), of a second or two while a worker for
    jobs runs.

    Args:
        directory: where the spools write.
        keys: opens their segments.
        lake: where the rows go.
        subject_of: tells of a release whom its predictions are about.
        subjects: the keys of those persons.
        moved: called with a name and the rows of each segment of a prediction log once the
            lake has them; the same name twice is the same rows.
    """

    name = "predictions on their way"

    def __init__(
        self,
        directory: Path,
        keys: KeyService,
        lake: Lake,
        subject_of: SubjectOf = _nobody,
        subjects: SubjectKeys | None = None,
        moved: Callable[[str, pa.Table], object] = lambda _name, _rows: None,
    ) -> None:
        self._directory = directory
        self._keys = keys
        self._lake = lake
        self._moved = moved
        self._subject_of = subject_of
        self._latecomers = None if subjects is None else Latecomers(subjects)

    def run_once(self) -> int:
        """Move what waits now; returns the number of rows. Raises what the lake raises."""
        moved = 0
        for table in self._tables():
            drain = self._drain(table, partial(self._rows, table))
            while True:
                round_ = drain.run_once()  # takes a bounded number of segments at a time
                moved += round_.n_rows
                if not round_.n_segments + round_.n_refused:
                    break
        return moved

    def waiting(self) -> Iterator[tuple[str, pa.Table]]:
        """The rows that wait for the lake on this machine, with the table that they go to."""
        for table in self._tables():
            for rows in self._drain(table, _read).waiting():
                yield table, rows

    def count(self, key: SubjectKey) -> dict[str, int]:
        """How many rows about a person wait for the lake on this machine, by table."""
        found: dict[str, int] = {}
        for table, rows in self.waiting():
            n_rows = 0
            if is_log(table):
                n_rows = people_of(rows, self._subject_of).count(key.subject)
            if n_rows:
                found[table] = found.get(table, 0) + n_rows
        return found

    def forget(self, key: SubjectKey) -> int:
        """Move what waits into the lake, without what it says of the person, whose key is
        destroyed; returns how many rows were about the person."""
        n_rows = sum(self.count(key).values())
        self.run_once()
        return n_rows

    def _tables(self) -> list[str]:
        if not self._directory.exists():
            return []
        return sorted(folder.name for folder in self._directory.iterdir() if folder.is_dir())

    def _drain(self, table: str, read: Callable[[bytes], pa.Table]) -> Drain:
        # A log that began without it is given the column that tells whom rows are about.
        if not is_log(table):
            return Drain(self._directory, self._keys, self._lake, table, read=read)
        return Drain(
            self._directory,
            self._keys,
            self._lake,
            table,
            read=read,
            add_columns=True,
            moved=self._moved,
        )

    def _rows(self, table: str, data: bytes) -> pa.Table:
        """The rows of a segment as the lake takes them."""
        rows = _read(data)
        if not is_log(table):
            return rows
        rows = with_all_columns(rows)
        return with_subject(self._lake, table, rows, self._subject_of, self._latecomers)


def _read(data: bytes) -> pa.Table:
    """The rows of a segment: of records, or of columns."""
    return rows_of_records(data) if are_records(data) else rows_of(data)
