"""The output of a scoring as a Parquet file, in the order of its rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from falaj.lake.disk import disk_error

if TYPE_CHECKING:
    from falaj.ingest.files import Files
    from falaj.lake.ports import Lake
    from falaj.serving.batchmodel import ScoreRequest

TOLD = "The scoring"


def export(lake: Lake, files: Files, request: ScoreRequest, scoring: str) -> None:
    """Write the rows of a scoring to ``request.parquet``, whole or not at all.

    The file is in clear and readable by its owner alone. A repeat replaces what the same
    scoring wrote; a file of somebody else stays.

    Raises:
        SourceBroken: the place is none that files may be written to.
        AlreadyExists: there is a file. LimitExceeded: the disk is full.
    """
    mark = scoring.encode()
    target = files.target(request.parquet or "", TOLD, unless=lambda path: _is_of(path, mark))
    beside = target.with_name(f".{target.name}.{scoring}")
    # The id of a job holds nothing but letters, digits and underscores.
    rows = lake.batches(request.to, where=f"scoring = '{scoring}'", order_by=["row_number"])
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            schema = rows.schema.with_metadata({b"scoring": mark})
            with pq.ParquetWriter(opened, schema, compression="zstd") as writer:
                for batch in rows:
                    writer.write_batch(batch)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(target)
    except OSError as error:
        raise disk_error(error, f"the file {target}") from error
    finally:
        beside.unlink(missing_ok=True)


def _is_of(path: os.PathLike[str], mark: bytes) -> bool:
    """True for a file that the same scoring wrote before."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except Exception:  # noqa: BLE001 - whatever it is, it is no file of this scoring
        return False
    return bool(metadata.get(b"scoring") == mark)
