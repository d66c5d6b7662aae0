"""Decisions of scaling, written down in the moment in which they are made.

Whoever decides may have no database at hand (the supervisor has none): a decision is a file
of its own, whole and on disk before the next one is made. The worker for jobs brings the
files into the metadata database; see ``falaj.serving.scalingtable``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger


class ScalingRecord(BaseModel):
    """One decision that changed the number of inference workers, with what was observed."""

    id: str = Field(default_factory=lambda: new_id("scaling"))
    machine: str = Field(default_factory=socket.gethostname)
    pool: str
    """Where the workers run: ``local`` or ``ray``."""
    at: datetime
    before: int
    after: int
    reason: str
    utilisation: list[float] = []
    """The busy share of each worker, 0 to 1."""
    queue_p90_ms: float = 0.0
    queue_p99_ms: float = 0.0
    inside: int = 0
    """Requests in work."""
    shed: int = 0
    """Requests that were refused, or answered too late, since the observation before."""


class ScalingRecords:
    """The decisions in a folder that wait for the database.

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def keep(self, record: ScalingRecord) -> None:
        """Write a decision down; it is on disk when this returns. Raises OSError."""
        path = self._folder / f"{record.id}.json"
        begun = path.with_suffix(".begun")
        with begun.open("w", encoding="utf-8") as file:
            file.write(record.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        begun.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def waiting(self) -> Iterator[ScalingRecord]:
        """The decisions that wait, the oldest first; what cannot be read is put aside."""
        for path in sorted(self._folder.glob("scaling_*.json")):
            try:
                yield ScalingRecord.model_validate_json(path.read_bytes())
            except ValidationError as error:
                logger(__name__).error("scaling record put aside", file=path.name, error=str(error))
                path.replace(path.with_suffix(".unreadable"))

    def done(self, record: ScalingRecord) -> None:
        """Forget a decision that is in the database."""
        (self._folder / f"{record.id}.json").unlink(missing_ok=True)
