"""Things of pipelines, webhooks and CI, made for one question to the small world."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from falaj.operations.webhooks_model import Topic
from falaj.testing.world import BEGIN, definitions
from falaj.training.pipelines.graph import record_run
from falaj.wiring.webhookparts import webhooks

if TYPE_CHECKING:
    from falaj.testing.world import World


def judged_model(world: World) -> str:
    """The name of a new model with one version, whose gates have passed."""
    registry, name = world.premises.registry, world.copied_model()
    (late,) = [one for one in definitions() if (one.kind, one.name) == ("model", "late")]
    with world.call() as call:
        world.premises.definitions.apply(call, [{**late.document(), "name": name}])
        report = registry.report(call.connection, "late", 1)
        policy = registry.policy(call.connection, name)
        registry.keep_report(
            call, registry.version(call.connection, name, 1), champion=None,
            policy_fingerprint=policy.fingerprint, results=report.results if report else [],
        )  # fmt: skip
    return name


def pipeline_run(world: World, *, cancelled: bool = False) -> str:
    """The id of a new run of a pipeline that waits, or was cancelled."""
    pipelines = world.premises.pipelines
    with world.call() as call:
        run = pipelines.runs.begin(call, "counting", {})
        pipeline = pipelines.runs.pipeline(call.connection, "counting", run.version)
        record_run(call, world.premises.catalog, run, pipeline)
        if cancelled:
            pipelines.runs.cancel(call, run.id)
    return run.id


def backfill(world: World, *, cancelled: bool = False) -> str:
    """The id of a new back-fill of two days, or of one that was cancelled."""
    found = world.premises.pipelines.backfills
    with world.call() as call:
        pipeline = world.premises.pipelines.runs.pipeline(call.connection, "counting")
        made = found.begin(
            call, pipeline, BEGIN, BEGIN + timedelta(days=2),
            every=timedelta(days=1), parallel=1, parameters={},
        )  # fmt: skip
        if cancelled:
            found.cancel(call, made.id)
    return made.id


def scheduled(world: World) -> str:
    """The name of a pipeline that is scheduled."""
    with world.call() as call:
        pipeline = world.premises.pipelines.runs.pipeline(call.connection, "counting")
        world.premises.pipelines.schedules.begin(call, pipeline)
    return pipeline.name


def receiver() -> str:
    """An address to which webhooks may lead; nothing is ever sent there."""
    return "https://192.0.0.9/falaj"  # of the few public ones that belong to nobody


def webhook(world: World) -> str:
    """The name of a new webhook."""
    name = world.new("program")
    with world.call() as call:
        webhooks(world.premises).add(call, name, receiver(), [Topic.GATES_FAILED])
    return name


def delivery(world: World) -> str:
    """The id of a new delivery that waits."""
    name = webhook(world)
    with world.call() as call:
        return webhooks(world.premises).test(call, name).id
