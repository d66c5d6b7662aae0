"""The graph of a run in the lineage: tables, steps, what they gave and what they began."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import NotFound
from falaj.kernel.jobs import JobState
from falaj.training.pipelines.model import StepState

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.jobs import Jobs
    from falaj.training.pipelines.model import Pipeline, PipelineRun, StepRecord

RUN, STEP = "pipeline_run", "pipeline_step"


def run_ref(run: str) -> AssetRef:
    """A run as an asset."""
    return AssetRef(RUN, run)


def step_ref(run: str, step: str) -> AssetRef:
    """A step of a run as an asset."""
    return AssetRef(STEP, f"{run}/{step}")


def record_run(call: Call, catalog: Catalog, run: PipelineRun, pipeline: Pipeline) -> None:
    """Make a run an asset, which its pipeline defines.

    It is classified as the most secret table that the pipeline reads is now, before a step has
    given anything: who may not know of such a table does not see the run, nor what its steps give.
    """
    read = set[str]().union(*(step.tables for step in pipeline.steps))
    catalog.record(
        call,
        run_ref(run.id),
        description=f"a run of {run.pipeline}",
        owner=run.principal,
        classification=highest(call, catalog, read),
        attributes={"pipeline": run.pipeline, "version": run.version, "code": run.code_hash},
    )
    catalog.link(call, AssetRef("pipeline", run.pipeline), run_ref(run.id), Relation.DEFINES)


def highest(call: Call, catalog: Catalog, read: Iterable[str]) -> Classification | None:
    """The classification of the most secret of some tables; None if none has one."""
    levels = [
        Classification(str(found))
        for table in sorted(read)
        if (
            found := catalog.load(call.connection, AssetRef("table", table)).attributes.get(
                "classification"
            )
        )
    ]
    return max(levels, key=lambda one: one.level) if levels else None


def record_graph(
    call: Call, catalog: Catalog, jobs: Jobs, run: PipelineRun, pipeline: Pipeline
) -> None:
    """Draw what flowed where in a run: of the steps that are done, once."""
    done = {one.step: one for one in run.steps if one.state is StepState.DONE}
    assets: dict[AssetRef, dict[str, Any]] = {}
    edges: list[tuple[AssetRef, AssetRef, Relation]] = []
    # As the run was classified when it began; an input may be more secret by now.
    own = catalog.load(call.connection, run_ref(run.id)).attributes.get("classification")
    classified = {"classification": own} if own else {}
    for name, record in done.items():
        step, ref = pipeline.step(name), step_ref(run.id, name)
        facts = {"attempts": record.attempts, "cached_from": record.from_run}
        known = {fact: value for fact, value in facts.items() if value is not None}
        assets[ref] = {"description": f"{name} of {run.pipeline}", "owner": run.principal,
                       "attributes": known, **classified}  # fmt: skip
        edges.append((run_ref(run.id), ref, Relation.DEFINES))
        edges += [(step_ref(run.id, needed), ref, Relation.FEEDS) for needed in sorted(step.needs)]
        for table in sorted(step.tables):
            assets.setdefault(AssetRef("table", table), {})
            edges.append((AssetRef("table", table), ref, Relation.FEEDS))
        if step.writes is not None:
            assets.setdefault(AssetRef("table", step.writes.table), {})
            edges.append((ref, AssetRef("table", step.writes.table), Relation.FEEDS))
        for made in _made_by(call, jobs, record):
            if catalog.exists(call.connection, made):
                edges.append((ref, made, Relation.FEEDS))
    catalog.draw(call, assets, edges)


def _made_by(call: Call, jobs: Jobs, record: StepRecord) -> list[AssetRef]:
    """What the jobs that a step began have made, as their results name it."""
    found: list[AssetRef] = []
    for job_id in record.jobs:
        try:
            job = jobs.get(call.connection, job_id)
        except NotFound:
            continue
        result = job.result if job.state is JobState.DONE else None
        if not isinstance(result, dict):
            continue
        found += [
            AssetRef(kind, str(result[kind]))
            for kind in ("training_set", "run")
            if result.get(kind)
        ]
    return found
