"""Scorings: what may be scored into which table, and the job that does it.

A scoring is cut into parts. Each part is scored by a task of the compute, in whichever
process, and appended to the output table under a key of its own, in order, by the job. A job
that is killed and taken up again goes on after the last part that it had written; a part that
was written but not yet noted is found by its key. So each input row has one output row.
An input without rows makes no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from falaj.catalog.columns import origin
from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import NotFound
from falaj.lake.personal import ErasedWhileCopied, n_erasures, record_rule
from falaj.lake.service import record_table
from falaj.serving import tables
from falaj.serving.batchexport import export
from falaj.serving.batchinputs import check_unchanged, file_slices, stamped, table_slices
from falaj.serving.batchmodel import (
    PART_ROWS,
    SCORE_JOB,
    SCORING,
    ScoreRequest,
    ScoringProgress,
    ScoringReport,
    Slice,
)
from falaj.serving.makingreleases import release_ref
from falaj.serving.model import Release
from falaj.serving.personallog import rule_of_scoring

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.ingest.files import Files
    from falaj.kernel.calls import Calls
    from falaj.kernel.compute import Compute, Task
    from falaj.kernel.jobs import JobRun
    from falaj.lake.ports import Lake

SCORED_BY = "scored_by"
"""The attribute of an output table: the endpoint whose scorings it holds."""
Pins = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Brings what was pushed for the features of a release's document into the lake, and tells the
versions of the foreign tables among them."""


class ScoreJob:
    """Handles ``endpoints.score``.

    Args:
        calls: opens the transactions that record what was done.
        lake: where tables are read and written.
        catalog: where the scoring and its output are assets.
        files: may be read and written.
        compute: opens what the parts are scored on.
        score_part: the task that scores one part.
        settings: what a task needs to open the same stores, without secrets.
        settle: see ``Pins``.
        part_rows: rows of a part.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        lake: Lake,
        catalog: Catalog,
        files: Files,
        compute: Callable[[], Compute],
        score_part: Task,
        settings: Mapping[str, Any],
        settle: Pins,
        part_rows: int = PART_ROWS,
    ) -> None:
        self._calls = calls
        self._lake = lake
        self._catalog = catalog
        self._files = files
        self._compute = compute
        self._score_part = score_part
        self._settings = dict(settings)
        self._settle = settle
        self._part_rows = part_rows

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Score all parts that are not written yet; returns a ``ScoringReport``."""
        request = ScoreRequest.model_validate(arguments)
        release = self._release(request)
        if run.checkpoint is None:
            run.report(0.0, "looking at the input")
            run.save(self._begun(request, release).model_dump(mode="json"))
        progress = ScoringProgress.model_validate(run.checkpoint)
        parts = self._parts(request, progress)
        total = sum(part.n_rows for part in parts)
        self._record(run, request, n_rows=None)
        while progress.n_parts < len(parts):
            progress = self._scored(run, request, release, parts, progress, total)
        if request.parquet is not None:
            run.report(0.99, f"writing {request.parquet}")
            export(self._lake, self._files, request, run.id)
        report = ScoringReport(
            scoring=run.id,
            endpoint=request.endpoint,
            release=release.id,
            table=request.to,
            snapshot=self._lake.latest(),
            n_rows=progress.n_rows,
            n_refused=progress.n_refused,
            parquet=request.parquet,
        )
        self._record(run, request, n_rows=progress.n_rows, report=report)
        return report.model_dump(mode="json")

    # -- before the first part --------------------------------------------------------

    def _release(self, request: ScoreRequest) -> Release:
        with self._calls.database.reading() as connection:
            row = tables.release_row(connection, request.release)
        if row is None:
            raise NotFound(f"There is no release {request.release!r} any more.")
        return Release.model_validate(row.document)

    def _begun(self, request: ScoreRequest, release: Release) -> ScoringProgress:
        pins: Mapping[str, str] = {}
        if request.at is not None and release.features is not None:
            pins = self._settle(release.features)
        return ScoringProgress(
            snapshot=self._lake.latest(), pins=dict(pins), stamps=stamped(request.files)
        )

    def _parts(self, request: ScoreRequest, progress: ScoringProgress) -> list[Slice]:
        if request.table is not None:
            snapshot = request.snapshot if request.snapshot is not None else progress.snapshot
            return table_slices(self._lake, request.table, snapshot, part_rows=self._part_rows)
        for stamp in progress.stamps:  # else parts that are written might be cut anew
            check_unchanged(stamp)
        return file_slices(request.files, part_rows=self._part_rows)

    # -- the parts --------------------------------------------------------------------

    def _scored(
        self,
        run: JobRun,
        request: ScoreRequest,
        release: Release,
        parts: Sequence[Slice],
        progress: ScoringProgress,
        total: int,
    ) -> ScoringProgress:
        """Score parts and write them, until all are written or somebody is erased while one
        is under way: then it and what follows are to be scored again."""
        left = parts[progress.n_parts :]
        since: dict[int, int] = {}

        def items() -> Iterator[Any]:
            for part in left:
                since[part.number] = n_erasures(self._lake)  # before any of its rows is read
                yield self._item(run, request, release, progress, part)

        rule = rule_of_scoring(request.to, request.keys, release)
        if rule is not None:
            record_rule(self._lake, rule)
        compute = self._compute()
        try:
            told = f"scored {progress.n_rows:,} of {total:,} rows"
            run.report(progress.n_rows / total, told)
            for part, found in zip(left, compute.ordered(self._score_part, items()), strict=True):
                key, then = _key(run, part.number), since.pop(part.number)
                try:
                    self._lake.append(request.to, _rows(found), key=key, since=then)
                except ErasedWhileCopied:
                    return progress
                progress = progress.model_copy(
                    update={
                        "n_parts": part.number + 1,
                        "n_rows": progress.n_rows + part.n_rows,
                        "n_refused": progress.n_refused + int(found["n_refused"]),
                    }
                )
                run.save(progress.model_dump(mode="json"))
                told = f"scored {progress.n_rows:,} of {total:,} rows"
                run.report(0.98 * progress.n_rows / total, told)
        finally:
            compute.close()
        return progress

    def _item(
        self,
        run: JobRun,
        request: ScoreRequest,
        release: Release,
        progress: ScoringProgress,
        part: Slice,
    ) -> dict[str, Any]:
        """What a task is told: plain data, and no secret."""
        return {
            "settings": self._settings,
            "scoring": run.id,
            "request": request.model_dump(mode="json"),
            "release": release.model_dump(mode="json"),
            "progress": progress.model_dump(mode="json"),
            "part": part.model_dump(mode="json"),
        }

    # -- the record -------------------------------------------------------------------

    def _record(
        self,
        run: JobRun,
        request: ScoreRequest,
        *,
        n_rows: int | None,
        report: ScoringReport | None = None,
    ) -> None:
        """The scoring and its output as assets, before the first row and after the last."""
        with self._calls.opened(
            SCORE_JOB,
            run.submitted_by,
            resource=f"endpoint:{request.endpoint}",
            arguments={"job": run.id, "release": request.release, "to": request.to},
        ) as call:
            snapshot = report.snapshot if report else None
            recorded(call, self._catalog, run.id, request, n_rows=n_rows, snapshot=snapshot)
            if report is not None:
                call.note(**report.model_dump(mode="json"))
                call.emit("endpoint.scored", **report.model_dump(mode="json"))


def recorded(
    call: Call,
    catalog: Catalog,
    scoring: str,
    request: ScoreRequest,
    *,
    n_rows: int | None = None,
    snapshot: int | None = None,
) -> None:
    """Record a scoring, its output table, and what flows: input and release, scoring, output."""
    ref = AssetRef(SCORING, scoring)
    catalog.record(
        call,
        ref,
        description=f"Rows scored by {request.endpoint} into {request.to}.",
        owner=call.principal.id,
        classification=request.classification,
        attributes={
            "endpoint": request.endpoint,
            "release": request.release,
            "snapshot": request.snapshot,
            "files": list(request.files) or None,
            "n_rows": n_rows,
        },
    )
    output = record_table(
        call,
        catalog,
        request.to,
        snapshot=snapshot,
        description=f"What {request.endpoint} predicted for batches of rows.",
        classification=request.classification,
        origins=_origins(request),
    )
    catalog.record(call, output, attributes={SCORED_BY: request.endpoint})
    if request.table is not None:
        catalog.link(call, AssetRef("table", request.table), ref, Relation.FEEDS)
    release = release_ref(request.endpoint, request.release)
    catalog.link(call, release, ref, Relation.PREDICTED)
    catalog.link(call, ref, output, Relation.FEEDS)


def _origins(request: ScoreRequest) -> dict[str, list[str]]:
    """What the columns of the output come from; the text of an error may hold any value."""
    if request.table is None:
        return {}
    carried = {key: [origin(request.table, key)] for key in request.keys}
    return {**carried, "error": [origin(request.table, name) for name in request.read]}


def most_secret(*given: str | Classification | None) -> Classification | None:
    """The highest of some classifications; None if there is none among them."""
    known = [Classification(one) for one in given if one is not None]
    return max(known, key=lambda one: one.level, default=None)


def _key(run: JobRun, part: int) -> str:
    return f"score/{run.id}/{part}"


def _rows(found: Mapping[str, Any]) -> pa.Table:
    with pa.ipc.open_stream(found["rows"]) as reader:
        return reader.read_all()
