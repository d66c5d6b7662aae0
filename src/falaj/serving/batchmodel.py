"""The words of batch scoring: what is asked, into which slices it is cut, what came of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from falaj.catalog.model import Classification
from falaj.kernel.errors import Conflict, InvalidInput

SCORE_JOB = "endpoints.score"
SCORING = "scoring"
"""The kind of a scoring's asset; its key is the id of its job."""
PART_ROWS = 524_288
"""Rows of a part: what one task scores, and what one append to the output table holds."""
OWN_COLUMNS = (
    "scoring",
    "row_number",
    "prediction_id",
    "variant",
    "model",
    "release",
    "predicted_for",
    "error",
)
"""The columns of an output table besides the chosen keys and the outputs."""


class OnError(StrEnum):
    """What becomes of a row that a live request would be refused for."""

    FAIL = "fail"  # the job fails and names the first such row
    NULL = "null"  # its outputs are null, and the column `error` says why


class RowRefused(InvalidInput):
    """A row is not what the endpoint takes, and the scoring was to fail then."""

    code = "row-refused"


class InputChanged(Conflict):
    """A file that is being scored is not what it was when the scoring began."""

    code = "input-changed"


class Slice(BaseModel):
    """One part of the input: always the same rows, in the same order.

    ``place`` says where they are: positions of a table, row groups or batches or bytes of a
    file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    first_row: int
    n_rows: int
    source: str
    """The table, or the path of the file."""
    begin: int
    end: int
    skip: int = 0
    """Rows to leave out at the beginning of what ``begin`` and ``end`` bound."""


class Stamp(BaseModel):
    """What a file was like when a scoring began."""

    model_config = ConfigDict(frozen=True)

    path: str
    n_bytes: int
    modified_ns: int


class ScoreRequest(BaseModel):
    """What a scoring job is to do; everything that it reads is pinned."""

    model_config = ConfigDict(extra="forbid")

    endpoint: str
    release: str
    to: str
    table: str | None = None
    snapshot: int | None = None
    """Of the input table, and of the lake for features as of an instant."""
    files: tuple[str, ...] = ()
    at: str | None = None
    """A column of instants, or an instant; None: features as they stand online now."""
    keys: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    """The columns of the input table that are read, those carried among them."""
    on_error: OnError = OnError.FAIL
    classification: Classification | None = None
    """Of the output table, at least."""
    parquet: str | None = None
    """Where to write the output as a file besides."""


class ScoringProgress(BaseModel):
    """The checkpoint of a scoring job: what is written, and what it stands on."""

    snapshot: int
    """The lake's, for features as of an instant."""
    pins: dict[str, str] = {}
    stamps: tuple[Stamp, ...] = ()
    n_parts: int = 0
    """So many parts are in the output table."""
    n_rows: int = 0
    n_refused: int = 0


class ScoringReport(BaseModel):
    """What a scoring job did."""

    scoring: str
    endpoint: str
    release: str
    table: str
    snapshot: int
    """The output table's snapshot after the last part."""
    n_rows: int
    n_refused: int
    parquet: str | None = None
