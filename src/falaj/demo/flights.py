"""The chapters of the flight story: each takes the platform and the teller, and does one step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from falaj.demo import definitions
from falaj.demo.definitions.features import delay_features
from falaj.demo.definitions.model import endpoint, flight_delay
from falaj.demo.definitions.training import flight_training
from falaj.demo.flights_data import training_request
from falaj.demo.story import Story
from falaj.features.plan import ServicePlan
from falaj.ingest.model import LoadReport, LoadState, Source
from falaj.interfaces.declarations import declared
from falaj.interfaces.platform import Platform
from falaj.kernel.jobs import Job
from falaj.models.model import GateReport, ModelVersion, Stage
from falaj.serving.model import Release

DECLARED = Path(definitions.__file__).parent


def declare(platform: Platform, story: Story) -> list[Source]:
    """Apply what the demo declares; returns the sources among it."""
    found = declared(DECLARED)
    with story.chapter("Declared", "Sources, contracts, features, gates and endpoint: in Python."):
        plan = platform.definitions.apply([one.document() for one in found])
        kinds = [item.kind for item in plan.effective()]
        story.table(["kind", "declared"], [[kind, kinds.count(kind)] for kind in sorted({*kinds})])
    return [one for one in found if isinstance(one, Source)]


def load(platform: Platform, story: Story, sources: Iterable[Source]) -> list[LoadReport]:
    """Load every source under its contract."""
    reports = []
    with story.chapter("Loaded", "Typed, held to contracts, encrypted, one snapshot each."):
        for source in sources:
            job = platform.sources.load(source.name)
            result = followed(platform, story, job, f"loading {source.name}")
            reports.append(LoadReport.model_validate(result))
        story.table(
            ["table", "read", "written", "set aside", "checks"],
            [[r.table, r.n_read, r.n_written, r.n_quarantined, len(r.checks)] for r in reports],
        )
        for report in reports:
            for check in report.checks:
                if not check.passed and report.state is LoadState.DONE:
                    story.text(
                        f"[yellow]{check.severity}[/] {report.table}: {check.check} is broken "
                        f"by {check.n_violations:,} of {check.n_rows:,} rows"
                    )
    return reports


def train(platform: Platform, story: Story, plan: ServicePlan) -> ModelVersion:
    """Train a model on what was known two hours ahead; returns its version.

    Args:
        plan: the compiled service ``delay_features``, for the names of its columns.
    """
    with story.chapter("Trained", "January to August; September decides when to stop."):
        request = training_request(tuple(plan.outputs)).model_dump(mode="json")
        given = {"spec": request.pop("spec"), "request": request}
        run = platform.pipelines.run(flight_training.name, parameters=given)
        followed(platform, story, platform.jobs.get(run.job), f"training {request['model']}")
        result = platform.pipelines.read(run.id, "trained")
        version = platform.models.get(flight_delay.name, result["version"])
        known = ("validation_auc", "validation_log_loss", "validation_calibration_error")
        story.done(
            f"version {version.version} of {version.model}",
            **{name: version.metrics[name] for name in known},
        )
    return version


def judge(platform: Platform, story: Story, version: ModelVersion) -> GateReport:
    """Run the gates of a version."""
    with story.chapter("Judged", "What every version must keep, measured on October to December."):
        job = platform.models.gates(version.model, version.version)
        followed(platform, story, job, "running the gates")
        report = platform.models.gate_report(version.model, version.version)
        story.table(
            ["gate", "outcome", "what was found"],
            [[one.gate, one.outcome.value, one.message] for one in report.results],
        )
        card = platform.models.card(version.model, version.version)
        parts = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
        story.text(
            f"falaj models card {version.model} {version.version} --form html --to card.html"
        )
        story.done(f"its card tells: {', '.join(part.lower() for part in parts)}")
    return report


def promote(owner: Platform, approver: Platform, story: Story, version: ModelVersion) -> str:
    """One asks for production, another approves; both with a fresh second factor.

    Returns:
        The id of the change.
    """
    with story.chapter("Approved", "Nobody approves what they asked for."):
        change = owner.models.promote(
            version.model, version.version, to=Stage.PRODUCTION, reason="It passed its gates."
        )
        story.done(f"{change.id} asks for production")
        done = approver.changes.approve(change.id, reason="The gates passed; the slices hold.")
        story.done(f"{done.id} is {done.state.value}")
    return change.id


def serve(platform: Platform, story: Story) -> Release:
    """Deploy the approved version and let it answer."""
    with story.chapter("Served", "A release is an immutable document; switching drops nothing."):
        release = platform.endpoints.deploy(endpoint.name, activate=True)
        story.done(f"{release.id} answers with {release.model} and {delay_features.name}")
    return release


def followed(platform: Platform, story: Story, job: Job, what: str) -> Any:
    """Wait for a job behind a progress bar; returns its result."""
    with story.progress(what, 1.0) as bar:
        seen = 0.0

        def moved(now: Job) -> None:
            nonlocal seen
            bar.advance(now.progress - seen)
            bar.say(now.message or what)
            seen = now.progress

        return platform.wait(job, on_progress=moved).result
