"""The chapters of the demo in which the autumn drifts and the model is trained again, by itself.

Nobody presses anything: the running platform's worker sees what the monitor found, and takes
the retraining from its cause to a release, inside of bounds that two people have put in
force. The template permits one such change a day; so the next one stops for a person.
"""

from __future__ import annotations

import time
from datetime import timedelta

from falaj.demo.definitions.model import autumn, endpoint, flight_delay
from falaj.demo.definitions.training import flight_retraining
from falaj.demo.flights_data import training_request
from falaj.demo.live import BEGIN, END
from falaj.demo.story import Story
from falaj.features.plan import ServicePlan
from falaj.interfaces.platform import Platform
from falaj.kernel.errors import Unavailable
from falaj.monitoring.retrainingwords import (
    OnFinding,
    Retraining,
    RetrainingRun,
    RetrainingState,
    Standard,
)
from falaj.operations.standard import Bound, ChangeTemplate

TEMPLATE = "flight-delay-retrained"
RETRAINING = "flight-delay-again"
NO_WORSE_BY = 0.01
PATIENCE_SECONDS = 600.0


def template() -> ChangeTemplate:
    """What two people permit in advance: one promotion a day, inside bounds."""
    at_least = -NO_WORSE_BY
    return ChangeTemplate(
        name=TEMPLATE,
        description="A retrained version that is no worse than the champion takes its place.",
        change="model_promotion",
        subjects=(f"model_version:{flight_delay.name}/*",),
        bounds=(
            Bound(fact="evidence.retraining.difference.low", at_least=at_least),
            Bound(fact="evidence.retraining.same_feature_service", one_of=(True,)),
            Bound(fact="evidence.retraining.same_contract", one_of=(True,)),
        ),
        most_per_day=1,
    )


def retraining(plan: ServicePlan) -> Retraining:
    """Drift that lasts has the model trained again.

    Args:
        plan: the compiled service ``delay_features``, for the names of its columns.
    """
    request = training_request(tuple(plan.outputs)).model_dump(mode="json")
    spec = request.pop("spec")
    return Retraining(
        name=RETRAINING,
        endpoint=endpoint.name,
        model=flight_delay.name,
        triggers=(OnFinding(monitor=autumn.name, finding="drift-*"),),
        pipeline=flight_retraining.name,
        parameters={"spec": spec, "request": request},
        cool_down=timedelta(0),
        standard=Standard(template=TEMPLATE, no_worse_by=NO_WORSE_BY),
        release=True,
    )


def permit(owner: Platform, approver: Platform, story: Story) -> None:
    """Have the template of the standard change put in force, by two people."""
    change = owner.policy.propose([template().document()], reason="Autumn is not the year.")
    approver.changes.approve(change.id, reason="It is compared on the same flights.")
    story.done(f"{TEMPLATE}: one retrained version a day may take its champion's place")


def drift(owner: Platform, story: Story, plan: ServicePlan) -> None:
    """Check the months as a schedule would have, each when it was over."""
    why = "Three months, each against the months to August; what lasts raises an alert."
    with story.chapter("Drifted", why):
        owner.definitions.apply([retraining(plan).document()])
        story.done(f"{RETRAINING} waits for a cause")
        ends = [BEGIN + timedelta(days=31), BEGIN + timedelta(days=61), END]
        psi: dict[str, list[float]] = {}
        rows = []
        for until in ends:
            checked = owner.monitors.check(autumn.name, until=until)
            report = owner.monitors.report(checked.reports[0]).document
            for one in (*report["features"], report["score"]):
                psi.setdefault(one["name"], []).append(one["psi"])
            rows.append(
                [f"{until - timedelta(days=1):%B}", report["n_observed"],
                 len(checked.findings) + len(checked.waiting), len(checked.findings)]
            )  # fmt: skip
        story.table(["month", "predictions", "found", "in two months running: alert"], rows)
        farthest = sorted(psi, key=lambda name: -max(psi[name]))[:5]
        story.table(
            ["PSI", "October", "November", "December"],
            [[name, *psi[name]] for name in farthest],
        )


def retrain(owner: Platform, story: Story) -> None:
    """Wait while the worker takes a retraining from its cause to a release."""
    why = "Nobody asked: the worker saw the alerts. Gates, bounds, a standard change, a release."
    with story.chapter("Retrained", why):
        run = _followed(owner, story, n=1)
        _chain(story, run)
        if run.state is not RetrainingState.DONE:
            raise Unavailable(
                f"The retraining {run.id} is {run.state}.",
                hint=f"`falaj retraining history {RETRAINING}` tells why.",
            )
        active = owner.endpoints.status(endpoint.name).active
        serving = active.variants[0].version if active else 0
        told = f"{run.release} answers with version {serving}"
        story.done(told, minutes=_seconds(run) / 60)


def stop_for_a_person(owner: Platform, story: Story) -> int:
    """Ask for one more: the template permits one a day, so this one waits for a person.

    Returns:
        The version that waits.
    """
    why = "The template permits one a day. The next one is trained too, on the same rows; it waits."
    with story.chapter("Stopped", why):
        owner.retraining.run(RETRAINING, reason="The snow of January is coming.")
        run = _followed(owner, story, n=2)
        _chain(story, run)
        waiting = owner.changes.get(run.change or "")
        if run.state is not RetrainingState.WAITING or waiting.state != "waiting":
            raise Unavailable(f"The retraining {run.id} is {run.state}, and waits for nobody.")
        story.text(f"falaj changes approve {waiting.id} --reason …")
    return run.version or 0


def _followed(owner: Platform, story: Story, *, n: int) -> RetrainingRun:
    """The newest of n retrainings, once it goes on no more by itself."""
    until = time.monotonic() + PATIENCE_SECONDS
    stands = (RetrainingState.WAITING,)
    with story.progress("retraining", 6.0) as bar:
        seen = 0
        while True:
            runs = owner.retraining.history(RETRAINING)
            if len(runs) >= n:
                bar.say(str(runs[0].state))
                bar.advance(float(len(runs[0].story) - seen))
                seen = len(runs[0].story)
                if runs[0].state.ended or runs[0].state in stands:
                    return runs[0]
            if time.monotonic() > until:
                raise Unavailable(
                    f"{RETRAINING} did not come to an end in {PATIENCE_SECONDS:.0f} s.",
                    hint="See falaj-up.log in the demo's folder.",
                )
            time.sleep(0.2)


def _chain(story: Story, run: RetrainingRun) -> None:
    story.text(f"falaj retraining history {RETRAINING}")
    begun = run.story[0].at
    story.table(
        ["s", "link", "what happened"],
        [[(one.at - begun).total_seconds(), one.what, _short(one.text)] for one in run.story],
    )


def _seconds(run: RetrainingRun) -> float:
    return (run.story[-1].at - run.story[0].at).total_seconds()


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "…"
