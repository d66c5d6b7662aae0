"""``falaj demo``: the whole life of a model on real flights, told in chapters.

Every number that is shown is computed in the run that shows it. The people are played by
this program: each has a password and an authenticator of their own, and enters as a
person would.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from falaj.demo import again, compared, flights, proof, tried
from falaj.demo.definitions.features import NOT_FOR_THE_MODEL, delay_features
from falaj.demo.definitions.model import endpoint
from falaj.demo.live import BEGIN, END, Lived, autumn, lived
from falaj.demo.running import Codes, Person, Questions, Up, enrolled, hired, running
from falaj.demo.story import Story
from falaj.demo.tuning import tune
from falaj.features.model import FeatureView
from falaj.features.plan import ServicePlan
from falaj.interfaces.declarations import declared
from falaj.interfaces.platform import Platform, connect, near
from falaj.interfaces.trees import trace_tree
from falaj.kernel.confinement import can_confine
from falaj.kernel.errors import Unavailable
from falaj.kernel.settings import Settings
from falaj.models.model import ModelVersion
from falaj.trust.model import Role
from falaj.wiring.assembly import Premises
from falaj.wiring.setup import initialise

OWNER, APPROVER, FEED, DESK = "noura", "khalid", "departure-feed", "gate-desk"
PASSWORD = "seven wells under one hill"  # noqa: S105 - of a person that this program plays
SHOWN: dict[str, tuple[str, ...]] = {
    "prediction": ("request_id", "score", "predicted_for", "caller"),
    "release": (),
    "model_version": ("stage",),
    "change": ("requested_by", "decided_by"),
    "run": ("code", "snapshot"),
    "training_set": ("snapshot", "rows"),
    "feature_service": ("definition_version",),
    "table": ("snapshot", "n_rows"),
    "source": ("definition_version",),
}
"""Of the steps of a trace, those that the story shows, and what it tells of each."""


def tell(console: Console, *, keep: bool = False, where: Path | None = None) -> None:
    """Tell the story.

    Args:
        console: where to.
        keep: leave the platform running, with its address and a login.
        where: an empty or new folder; by default a new one among temporary files, which is
            removed at the end unless ``keep``.

    Raises:
        FalajError: a step failed; everything that was started is ended.
    """
    story = Story(console)
    folder = Path(tempfile.mkdtemp(prefix="falaj-demo-")) if where is None else where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "falaj.toml").write_text(
        'log_level = "warning"\n[http]\nport = 0\n[inference]\nport = 0\n', encoding="utf-8"
    )
    story.opening(
        "Falaj",
        "The flights that left New York in 2013. Two hours before each one:",
        "[bold]will it leave more than 15 minutes late?[/]",
        "From files to a governed model in production, on this machine, in one go.",
    )
    # What the demo's steps run is the demo's own: it need not be confined where that cannot be.
    settings = Settings.read(folder, pipelines={"confined": can_confine()})
    codes = _founded(story, settings)
    premises = Premises(settings, process="demo")
    try:
        _told(story, folder, premises, codes, keep=keep)
    finally:
        premises.close()
        if where is None and not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _founded(story: Story, settings: Settings) -> Codes:
    with story.chapter("Founded", "falaj init: keys, encrypted stores, an owner with two factors."):
        made = initialise(settings, owner=OWNER)
        story.done(f"a platform in {settings.home}, owned by {made.owner}")
    return Codes(made.totp_secret)


def _told(story: Story, folder: Path, premises: Premises, codes: Codes, *, keep: bool) -> None:
    with near(premises) as owner:
        sources = flights.declare(owner, story)
        flights.load(owner, story, sources)
        plan = premises.features.plan(delay_features.name)
        version = flights.train(owner, story, plan)
        tune(owner, story, version)
        flights.judge(owner, story, version)
        with running(folder, premises.settings.home, keep=keep) as up:
            _served(story, premises, owner, up, codes, version, plan, keep=keep)


def _served(
    story: Story,
    premises: Premises,
    owner: Platform,
    up: Up,
    codes: Codes,
    version: ModelVersion,
    plan: ServicePlan,
    *,
    keep: bool,
) -> None:
    approver, secrets = _peopled(story, owner, up, codes)
    flights.promote(owner, approver.platform, story, version)
    again.permit(owner, approver.platform, story)
    flights.serve(owner, story)
    with compared.challenged(owner, story, version, plan) as small:
        approver.enter(up)
        owner.step_up(codes.next())
        outcomes = compared.Outcomes(premises, OWNER)
        outcomes.begin()
        compared.challenge(owner, approver.platform, story, small)
    _materialised(story, owner)
    feed = connect(up.control, service=FEED, secret=secrets[FEED], ca=up.ca)
    questions = Questions(up, endpoint.name, service=DESK, secret=secrets[DESK])
    try:
        seen = _lived(story, premises, owner, feed, questions, outcomes)
        approver.enter(up)
        owner.step_up(codes.next())
        compared.decide(owner, approver.platform, story, outcomes)
        _watched(story, owner)
        again.drift(owner, story, plan)
        again.retrain(owner, story)
        waiting = again.stop_for_a_person(owner, story)
        questions.rested()
        approver.enter(up)
        owner.step_up(codes.next())
        tried.try_and_roll_back(owner, approver.platform, story, premises, questions, waiting)
    finally:
        questions.close()
        feed.close()
    _traced(story, owner, seen)
    _proven(story, premises, owner, version)
    approver.platform.close()
    _ended(story, premises, up, approver, plan, keep=keep)


def _peopled(story: Story, owner: Platform, up: Up, codes: Codes) -> tuple[Person, dict[str, str]]:
    with story.chapter("Peopled", "falaj up is running; a second person enrols over HTTPS."):
        story.done("control plane, inference and worker are up", seconds=up.seconds)
        owner.step_up(codes.next())
        invitation = owner.accounts.invite(APPROVER, roles=(Role.APPROVER, Role.VIEWER))
        link = invitation.secret.get_secret_value()
        approver = enrolled(up, link, APPROVER, PASSWORD)
        story.done(f"{APPROVER} enrolled by a one-time link, with password and second factor")
        secrets = {name: hired(owner, name) for name in (FEED, DESK)}
        story.done(f"{FEED} and {DESK} are programs with the role `service`")
    return approver, secrets


def _materialised(story: Story, owner: Platform) -> None:
    with story.chapter("Materialised", "What was known on 1 October, into the online store."):
        views = [one for one in declared(flights.DECLARED) if isinstance(one, FeatureView)]
        with story.progress("materialising", len(views)) as bar:
            for view in views:
                bar.say(view.name)
                owner.wait(owner.features.materialize(view.name, upto=BEGIN))
                bar.advance(1)
        story.done(f"{len(views)} views")


def _lived(
    story: Story,
    premises: Premises,
    owner: Platform,
    feed: Platform,
    questions: Questions,
    outcomes: compared.Outcomes,
) -> Lived:
    seen = Lived()
    why = "October to December again, in the order of time: events pushed, predictions asked."
    plan = premises.features.plan(delay_features.name)
    n_features = len(plan.outputs) - len(NOT_FOR_THE_MODEL)
    with story.chapter("Lived", why):
        replay = autumn(premises.settings.data_folders[0])
        with story.progress("replaying", len(replay)) as bar:
            for seen in lived(replay, feed, questions, outcomes.after):
                bar.advance(1)
                bar.say(f"{len(seen.answers):,} predictions")
        milliseconds = sorted(1e3 * one.seconds for one in seen.answers)
        story.table(
            ["live, over HTTPS with a token", "n", "a second", "p50 ms", "p99 ms"],
            [
                [
                    f"predictions ({n_features} features, looked up online)",
                    len(milliseconds),
                    round(seen.requests_per_second),
                    milliseconds[len(milliseconds) // 2],
                    milliseconds[int(len(milliseconds) * 0.99)],
                ],
                [
                    "events pushed, readable on return",
                    seen.n_events,
                    round(seen.n_events / sum(seen.push_seconds)),
                    1e3 * statistics.median(seen.push_seconds),
                    1e3 * sorted(seen.push_seconds)[int(len(seen.push_seconds) * 0.99)],
                ],
            ],
        )
        _counted(story, owner)
        _await_log(premises, len(seen.answers))
        story.done("every prediction is in the lake's log", rows=len(seen.answers))
        report = owner.features.parity(delay_features.name, sample=200, at=END)
        story.done(
            "online = offline, recomputed on a sample",
            values=report.n_values,
            mismatches=report.n_mismatches,
        )
    return seen


def _counted(story: Story, owner: Platform) -> None:
    """What the workers counted themselves, in shared memory (`falaj endpoints top`)."""
    traffic = owner.endpoints.status(endpoint.name).traffic
    story.table(
        ["the worker's own count", "n", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "not answered"],
        [
            [
                "from the whole request to its answer",
                traffic.predictions,
                traffic.p50_ms or 0.0,
                traffic.p90_ms or 0.0,
                traffic.p99_ms or 0.0,
                traffic.p999_ms or 0.0,
                traffic.refused + traffic.failed,
            ]
        ],
    )


def _await_log(premises: Premises, n_rows: int, *, patience_seconds: float = 30.0) -> None:
    from falaj.serving.names import table_of

    table = table_of(endpoint.name)
    patience = time.monotonic() + patience_seconds
    while not premises.lake.exists(table) or premises.lake.count(table) < n_rows:
        if time.monotonic() > patience:
            raise Unavailable(
                f"The table {table} has not all of {n_rows} predictions after "
                f"{patience_seconds:.0f} s.",
                hint="See falaj-up.log in the demo's folder.",
            )
        time.sleep(0.2)


def _watched(story: Story, owner: Platform) -> None:
    why = "From the prediction log; labels joined when the flights had left."
    with story.chapter("Watched", why):
        performance = owner.monitors.performance(
            endpoint.name,
            "departures",
            "late",
            key="flight_id",
            recorded_at="departed_at",
            since=BEGIN,
            until=END,
        )
        rows = [
            [
                f"{one.since:%d %b}",
                one.n_labels,
                one.positive_rate,
                one.mean_score,
                one.auc.estimate if one.auc else None,
                f"{one.auc.low:.2f}-{one.auc.high:.2f}" if one.auc else None,
            ]
            for one in performance.periods
        ]
        story.table(["week of", "labels", "late", "predicted", "AUC", "95 %"], rows)
        aucs = [one.auc.estimate if one.auc else None for one in performance.periods]
        story.spark("realised AUC by week", aucs, low=0.5, high=1.0)
        drift = owner.monitors.drift(endpoint.name, since=BEGIN, until=END)
        story.table(
            ["drifted against the training months", "PSI", "why"],
            [[one.name, one.psi, one.why] for one in drift.drifted[:6]],
        )
        story.text(
            f"{len(drift.drifted)} of {len(drift.features) + 1} distributions have moved: "
            "autumn is not the year to August."
        )


def _traced(story: Story, owner: Platform, seen: Lived) -> None:
    with story.chapter("Traced", "Why did this decision fall? One prediction, back to its rows."):
        late = max(seen.answers, key=lambda one: one.score)
        story.text(f"falaj lineage prediction {late.prediction_id}")
        trace = owner.endpoints.trace(late.prediction_id)
        story.tree(trace_tree(trace, show=SHOWN))


def _proven(story: Story, premises: Premises, owner: Platform, version: ModelVersion) -> None:
    with story.chapter("Proven", "What was recorded stands; what was tampered with is refused."):
        found = owner.audit.verify()
        story.done(
            "falaj audit verify: the log is whole" if found.sound else "the log is NOT whole",
            records=found.n_records,
            signed=found.signed,
            seconds=found.seconds,
        )
        story.refused(
            "one bit of the model's bundle, flipped on disk",
            proof.refusal_of_changed_model(premises, version.bundle),
        )
        with tempfile.TemporaryDirectory() as name:
            copy = proof.finding_in_changed_log(premises.settings, Path(name), premises.clock)
        if copy.found.sound:
            raise LookupError("a changed audit record was not found")
        story.refused(
            f"the approver's name in record {copy.changed}, changed in a copy of the database",
            copy.found.findings[0].message,
        )


def _ended(
    story: Story,
    premises: Premises,
    up: Up,
    approver: Person,
    plan: ServicePlan,
    *,
    keep: bool,
) -> None:
    folder = premises.settings.home.parent
    lines = [f"{len(plan.outputs)} columns, one definition, two executions, one door."]
    if keep:
        lines += [
            f"The platform is running: {up.control}",
            f"Log in as {approver.name}, password: {approver.password}",
            f"authenticator secret: {approver.codes.secret}",
            f"Certificate authority: {up.ca}",
            f"Stop it with: kill {up.process.pid}",
        ]
        commands = [
            (f"falaj --folder {folder} models list", "what is registered"),
            (f"falaj --folder {folder} endpoints status {endpoint.name}", "what serves now"),
            (f"falaj --url {up.control} --ca {up.ca} login", "as the approver"),
        ]
    else:
        lines.append("This platform is gone with the demo; `falaj demo --keep` leaves it running.")
        commands = [
            ("falaj demo --keep", "the same, left running for you to look around"),
            ("falaj init", "a platform of your own, in this folder"),
            ("falaj --help", "every action as a command"),
        ]
    story.closing(*lines, commands=commands)
