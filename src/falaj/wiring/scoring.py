"""Batch scoring, joined: the job in the worker, and the task in a process of the compute."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from falaj.kernel.compute import task
from falaj.kernel.settings import Settings
from falaj.kernel.settings_keys import SECRETS as KEY_SERVICE_SECRETS
from falaj.wiring import stores

if TYPE_CHECKING:
    from falaj.kernel.compute import Compute
    from falaj.kernel.jobs import Handler
    from falaj.serving.batchinputs import Batch
    from falaj.serving.batchmodel import ScoreRequest, ScoringProgress, Slice
    from falaj.serving.batchpart import PartScorer
    from falaj.serving.model import Release
    from falaj.wiring.assembly import Premises

_OPENED: dict[str, PartScorer] = {}
"""The scoring that this process works on, by its id; the one before is let go."""


def scoring(
    made: Premises, *, compute: Callable[[], Compute] | None = None, part_rows: int | None = None
) -> Handler:
    """The handler of scoring jobs.

    Args:
        made: the platform.
        compute: opens what parts are scored on; by default what the settings name.
        part_rows: rows of a part, if not as many as is usual.
    """
    from falaj.features.plan import ServicePlan
    from falaj.serving.batch import ScoreJob
    from falaj.serving.batchmodel import PART_ROWS

    def settled(document: Mapping[str, Any]) -> Mapping[str, str]:
        plan = ServicePlan.from_documents(document["definitions"])
        made.features.settle(plan)
        return made.features.foreign_pins(plan)

    return ScoreJob(
        calls=made.calls,
        lake=made.lake,
        catalog=made.catalog,
        files=made.data_files,
        compute=compute or made.compute.opened,
        score_part=score_part,
        settings=plain_settings(made.settings),
        settle=settled,
        part_rows=part_rows or PART_ROWS,
    )


def plain_settings(settings: Settings) -> dict[str, Any]:
    """The settings as plain data, without secrets: a task has those from its environment."""
    secret = {name for name, value in settings if isinstance(value, SecretStr)}
    of_keys = {"key_service": set(KEY_SERVICE_SECRETS)}
    return settings.model_dump(mode="json", exclude={**dict.fromkeys(secret, True), **of_keys})


@task
def score_part(item: Any) -> Any:
    """Score one part, as ``ScoreJob`` asks; its rows as an Arrow stream, and what it took."""
    from falaj.serving.batchmodel import Slice
    from falaj.training.service import stream_of

    scorer = _OPENED.get(item["scoring"])
    if scorer is None:
        _OPENED.clear()
        scorer = _OPENED[item["scoring"]] = _scorer(item)
    rows = scorer.scored(Slice.model_validate(item["part"]))
    return {
        "rows": stream_of(rows),
        "n_refused": rows.num_rows - rows.column("error").null_count,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _scorer(item: Mapping[str, Any]) -> PartScorer:
    from falaj.serving.batchmodel import ScoreRequest, ScoringProgress
    from falaj.serving.model import Release
    from falaj.wiring.assembly import Premises

    made = Premises(stores.checked(Settings(**item["settings"])), process=f"scoring-{os.getpid()}")
    return part_scorer(
        made,
        item["scoring"],
        ScoreRequest.model_validate(item["request"]),
        Release.model_validate(item["release"]),
        ScoringProgress.model_validate(item["progress"]),
    )


def part_scorer(
    made: Premises,
    scoring_id: str,
    request: ScoreRequest,
    release: Release,
    progress: ScoringProgress,
) -> PartScorer:
    """What scores the parts of a request in this process."""
    from falaj.lake.personal import n_erasures
    from falaj.serving.batchinputs import CSV, columns_of, file_batches, format_of, table_batches
    from falaj.serving.batchpart import PartScorer
    from falaj.serving.batchscoring import BatchPlan
    from falaj.serving.historicalfeatures import HistoricalFeatures
    from falaj.wiring.supplyparts import refuse_revoked

    refuse_revoked(made, release)
    compiler = made.serving.plan_compiler
    if request.at is not None and release.features is not None:
        past = HistoricalFeatures(made.offline, progress.snapshot, progress.pins)
        compiler = made.serving.compiler_on(past)
    snapshot = progress.snapshot if request.snapshot is None else request.snapshot
    stamps = {stamp.path: stamp for stamp in progress.stamps}
    as_text = bool(request.files) and format_of(request.files[0]) == CSV

    def opened(part: Slice, columns: list[str]) -> Iterator[Batch]:
        n_erasures(made.lake)  # no key that is gone by now is remembered in this process
        if request.table is not None:
            return table_batches(made.lake, part, snapshot, columns)
        return file_batches(part, stamps[part.source], columns)

    columns = (
        list(made.lake.schema(request.table, snapshot).names)
        if request.table is not None
        else columns_of(request.files[0])
    )
    return PartScorer(
        request,
        scoring_id,
        release,
        BatchPlan(compiler.compile(release), as_text=as_text),
        opened,
        columns,
        as_text=as_text,
        clock=made.clock,
    )
