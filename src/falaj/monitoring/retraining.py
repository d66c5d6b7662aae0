"""Retraining: from a cause to a version in production, one durable step after the other.

Each step is a row that moves on in the transaction of what was done. What takes long is a
job of the platform, asked for at the door with a key that is made of the retraining and the
step: a worker that is killed between the asking and the move asks again and gets the first
answer. So one cause trains once, and nothing is promoted whose gates have not passed. Promotion
and the move that follows it are one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, Forbidden, NotFound
from falaj.kernel.jobs import JobState
from falaj.kernel.telemetry import logger
from falaj.models.model import GatesNotPassed
from falaj.monitoring.retrainings import Stale
from falaj.monitoring.retrainingwords import (
    CHOICE,
    GIVEN,
    Cause,
    Retraining,
    RetrainingRun,
    RetrainingState,
    RetrainingStatus,
    Told,
)
from falaj.operations.model import ChangeState
from falaj.operations.standard import OutsideBounds
from falaj.serving.errors import RolloutRuns

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import Job, Jobs
    from falaj.models.model import GateReport
    from falaj.models.registry import Registry
    from falaj.monitoring.promoting import Promoting
    from falaj.monitoring.retrainings import Retrainings
    from falaj.monitoring.schedules import Asking
    from falaj.monitoring.triggers import Triggers
    from falaj.operations.changes import Changes
    from falaj.training.pipelines.runs import PipelineRuns

_MOST_MOVES = 20
"""As many as a retraining has in all, and some to spare."""
_ROOM_AGAIN = timedelta(minutes=1)
"""A rollout lasts for days: each time that it is in the way stands in the audit log."""
_NO_ROOM = "rollout-underway"
"""The code of the refusal to start a second rollout on an endpoint, or in a full layer."""
_MOST_JUDGED = 3
"""So often are gates run again because the champion changed meanwhile."""


class Started(Protocol):
    """Tells what a training that was asked for has made."""

    def __call__(
        self, connection: Connection, run: RetrainingRun, job: Job
    ) -> Mapping[str, Any] | None:
        """What the training job told (``run``, ``version``); None if it made no version of the
        model, or several."""
        ...


class Retrainer:
    """Begins retrainings when there is a cause, and takes them on step by step.

    Args:
        calls: opens the transactions.
        jobs, changes, registry: tell what became of what was asked for.
        definitions: hold what is declared, and who applied it.
        pipelines: tell who applied a pipeline.
        asking: asks the door as a principal.
        triggers, retrainings, promoting: see their modules.
    """

    def __init__(
        self,
        *,
        calls: Calls,
        jobs: Jobs,
        changes: Changes,
        registry: Registry,
        definitions: Definitions,
        pipelines: PipelineRuns,
        asking: Asking,
        triggers: Triggers,
        retrainings: Retrainings,
        promoting: Promoting,
    ) -> None:
        self._calls = calls
        self._jobs = jobs
        self._changes = changes
        self._registry = registry
        self._definitions = definitions
        self._pipelines = pipelines
        self._asking = asking
        self._triggers = triggers
        self._retrainings = retrainings
        self._promoting = promoting
        self._log = logger(__name__)
        self._room_again: dict[str, datetime] = {}
        self._steps: dict[RetrainingState, Callable[[RetrainingRun, Retraining], bool]] = {
            RetrainingState.BEGUN: self._train,
            RetrainingState.TRAINING: self._trained,
            RetrainingState.JUDGING: self._judged,
            RetrainingState.PROMOTING: self._promote,
            RetrainingState.WAITING: self._decided,
            RetrainingState.RELEASING: self._release,
        }

    def run_once(self) -> int:
        """Begin what there is a cause for, and take on what goes on; returns how many moves.

        One that cannot be looked after is logged, and holds up no other.
        """
        moves = self._guarded(self._begin_due, "begin")
        with self._calls.database.reading() as connection:
            underway = self._retrainings.underway(connection)
        return moves + sum(
            self._guarded(partial(self._taken_on, one.id), one.id) for one in underway
        )

    def ask(self, call: Call, name: str, reason: str) -> RetrainingRun:
        """Begin one because somebody wants it, whatever its triggers say.

        Raises:
            NotFound: there is none of that name.
            Stale: one goes on already.
        """
        kept = self._definitions.version(call.connection, Retraining.kind, name)
        declared = _declared(self._definitions.parsed(kept))
        cause = Cause(
            on="asked",
            keys=(f"asked/{call.id}",),
            text=f"{call.principal.id} asked for it: {reason}",
        )
        champion = self._registry.champion(call.connection, declared.model)
        number = champion.version if champion else None
        with_owner = self._calls.joined(
            call.connection, "retraining.begin", kept.by, resource=str(declared.ref)
        )
        with with_owner as own:
            run = self._retrainings.begin(own, declared, kept.version, [cause], number)
        if run is None:
            raise Stale(
                f"A retraining {name!r} goes on already.",
                hint=f"`falaj retraining history {name}` tells how far it is.",
            )
        return run

    def status(self, connection: Connection, name: str) -> RetrainingStatus:
        """A declared retraining, and how it stands; raises NotFound."""
        kept = self._definitions.version(connection, Retraining.kind, name)
        declared = _declared(self._definitions.parsed(kept))
        newest = self._retrainings.listed(connection, name, limit=1)
        last = newest[0] if newest else None
        goes_on = last is not None and not last.state.ended
        waits = None
        if last is not None and last.ended_at is not None:
            until = last.ended_at + declared.cool_down
            waits = until if until > self._calls.now() else None
        return RetrainingStatus(
            retraining=declared,
            principal=kept.by,
            running=last if goes_on else None,
            last=last,
            next_not_before=waits,
        )

    def listed(self, connection: Connection) -> list[RetrainingStatus]:
        """All that are declared, by name."""
        kept = self._definitions.listed(connection, kind=Retraining.kind)
        return [self.status(connection, one.name) for one in sorted(kept, key=lambda k: k.name)]

    # ---- beginning

    def _begin_due(self) -> int:
        with self._calls.database.reading() as connection:
            kept = self._definitions.listed(connection, kind=Retraining.kind)
        return sum(self._guarded(partial(self._begin, one), one.name) for one in kept)

    def _begin(self, kept: Any) -> int:
        declared = _declared(self._definitions.parsed(kept))
        if not declared.active:
            return 0
        with self._calls.database.reading() as connection:
            causes = self._due(connection, kept, declared)
            champion = self._registry.champion(connection, declared.model)
        if not causes:
            return 0
        number = champion.version if champion else None
        resource = str(declared.ref)
        with self._calls.opened("retraining.begin", kept.by, resource=resource) as call:
            fresh = self._retrainings.fresh(call.connection, declared.name, causes)
            if not fresh:
                return 0
            run = self._retrainings.begin(call, declared, kept.version, fresh, number)
        return 0 if run is None else 1

    def _due(self, connection: Connection, kept: Any, declared: Retraining) -> list[Cause]:
        """The causes that are to be acted on now."""
        status = self.status(connection, declared.name)
        if status.running is not None or status.next_not_before is not None:
            return []
        found = self._triggers.causes(connection, declared, kept.by, kept.at, self._calls.now())
        return self._retrainings.fresh(connection, declared.name, found)

    # ---- going on

    def _taken_on(self, run_id: str) -> int:
        moves = 0
        while moves < _MOST_MOVES:
            with self._calls.database.reading() as connection:
                run = self._retrainings.get(connection, run_id)
                if run.state.ended:
                    break
                found = self._definitions.definition(
                    connection, Retraining.kind, run.retraining, run.definition_version
                )
            declared = _declared(found)
            try:
                moved = self._steps[run.state](run, declared)
            except Stale:
                moved = True  # by another worker; it is read anew
            except FalajError as error:
                if error.retryable:
                    raise
                self._fail(run, declared, error)
                moved = True
            if not moved:
                break
            moves += 1
        return moves

    def _train(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Ask for the training."""
        ask, key = self._asking(run.principal), f"{run.id}/train"
        if declared.pipeline is not None:
            self._check_pipeline(run, declared.pipeline)
            given = dict(declared.parameters)
            with self._calls.database.reading() as connection:
                known = self._pipelines.pipeline(connection, declared.pipeline).parameters
            if GIVEN in known:
                given[GIVEN] = {
                    "run": run.id, "on": run.cause.on, "text": run.cause.text,
                    "at": run.begun_at.isoformat(), "champion": run.champion,
                }  # fmt: skip
            began = ask("pipelines.run", [declared.pipeline], {"parameters": given}, key)
            told = f"pipeline {declared.pipeline} runs as {began['id']}"
            ref = AssetRef("pipeline_run", began["id"])
            facts = {"job": began["job"], "pipeline_run": began["id"]}
        else:
            request = _request(declared, run)
            began = ask("training.train", [request], {}, key)
            told, ref = f"training runs as {began['id']}", AssetRef("job", began["id"])
            facts = {"job": began["id"]}
        with self._opened(run, "retraining.train") as call:
            line = Told(at=call.now, what="training", text=told, refs=(str(ref),))
            self._retrainings.move(call, run, RetrainingState.TRAINING, line, **facts)
            self._retrainings.link(call, run, ref)
        return True

    def _trained(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Once the training has ended, ask for the gates of the version that it made."""
        job = self._ended(run, "training")
        if job is None:
            return False
        with self._calls.database.reading() as connection:
            made = self._made(connection, run, job, declared.model)
        version = int(made["version"])
        gates = self._asking(run.principal)(
            "models.gates", [declared.model, version], {}, f"{run.id}/gates"
        )
        with self._opened(run, "retraining.judge") as call:
            line = Told(
                at=call.now, what="version", refs=(f"run:{made['run']}", _version(run, version)),
                text=f"version {version} of {declared.model} was trained; its gates run",
            )  # fmt: skip
            facts = {"version": version, "run": made["run"], "job": gates["id"]}
            self._retrainings.move(call, run, RetrainingState.JUDGING, line, **facts)
            self._retrainings.link(call, run, AssetRef("run", str(made["run"])))
        return True

    def _judged(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Once the gates have run: go on, or end where they did not pass."""
        if self._ended(run, "running the gates") is None:
            return False
        with self._opened(run, "retraining.judged") as call:
            report = self._registry.report(call.connection, run.model, run.version or 0)
            if report is None:
                raise NotFound(f"The gates of version {run.version} left no report.")
            refs = (f"gate_report:{report.id}",)
            line = Told(at=call.now, what="gates", text=_gates_told(report), refs=refs)
            if report.passed:
                to, facts = RetrainingState.PROMOTING, {"gate_report": report.id}
                self._retrainings.move(call, run, to, line, **facts)
            else:
                error = {"code": "gates-not-passed", "message": line.text}
                self._retrainings.end_badly(
                    call, run, RetrainingState.NOT_PASSED, declared.endpoint, error
                )
        return True

    def _promote(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Promote by a standard change, or ask a person; with the move, one transaction.

        If another champion than the one that the gates compared with is in production by now, the
        gates run again.
        """
        asked = self._asked if declared.rollout is None else self._tried
        try:
            return asked(run, declared)
        except GatesNotPassed:
            n_judged = sum(one.what == "gates" for one in run.story)
            if n_judged > _MOST_JUDGED:
                raise
            gates = self._asking(run.principal)(
                "models.gates", [run.model, run.version], {}, f"{run.id}/gates/{n_judged}"
            )
        with self._opened(run, "retraining.judge") as call:
            told = "the gates it passed are not those of now; they run again"
            line = Told(at=call.now, what="again", text=told)
            self._retrainings.move(call, run, RetrainingState.JUDGING, line, job=gates["id"])
        return True

    def _asked(self, run: RetrainingRun, declared: Retraining) -> bool:
        with self._opened(run, "retraining.promote") as call:
            change, outside = self._promoting.promoted(call, declared, run, run.version or 0)
            done = change.state is ChangeState.APPROVED
            told = f"{change.id} promoted it, inside the bounds of a standard change"
            if not done:
                told = f"{change.id} waits for another person: {'; '.join(outside)}"
            line = Told(at=call.now, what="change", text=told, refs=(str(change.ref),))
            to = RetrainingState.WAITING
            if done:
                to = RetrainingState.RELEASING if declared.release else RetrainingState.DONE
            facts = {"change": change.id, "standard": done}
            self._retrainings.move(call, run, to, line, **facts)
            self._retrainings.link(call, run, change.ref)
        return True

    def _tried(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Ask for the rollout: as a standard change inside the bounds, else of another person.

        Which of both, and why, is kept before it is asked for: another attempt asks for the same,
        whatever the bounds say by then. What was refused was not begun, and is chosen anew.
        """
        if self._waits_for_room(run):
            return False
        choice = run.choice or self._choice(run, declared)
        try:
            change = self._start_asked(run, declared, choice)
        except FalajError as error:
            if error.code == _NO_ROOM:
                self._chosen(run, None, instead_of=choice)
                self._room_again[run.id] = self._calls.now() + _ROOM_AGAIN
                return False
            if not (_is_standard(choice) and isinstance(error, NotFound | OutsideBounds)):
                raise
            normal = Told(at=self._calls.now(), what=CHOICE, text=error.message)
            self._chosen(run, normal, instead_of=choice)
            return True
        standard = _is_standard(choice)
        told = f"{change['id']} began the rollout {declared.rollout}, inside the bounds"
        if not standard:
            told = f"{change['id']} waits for another person: {choice.text}"
        ref = AssetRef("change", change["id"])
        with self._opened(run, "retraining.rollout") as call:
            refs = (str(ref), f"rollout:{declared.rollout}")
            line = Told(at=call.now, what="rollout", text=told, refs=refs)
            to = RetrainingState.DONE if standard else RetrainingState.WAITING
            self._retrainings.move(call, run, to, line, change=ref.key, standard=standard)
            self._retrainings.link(call, run, ref)
        return True

    def _choice(self, run: RetrainingRun, declared: Retraining) -> Told:
        """How the rollout is asked for, as the bounds are now; kept. Raises Stale."""
        with self._opened(run, "retraining.compare") as call:
            outside = self._promoting.outside(call, declared, run.version or 0)
            text = "; ".join(outside)
            refs: tuple[str, ...] = ()
            if declared.standard is not None and not outside:
                text, refs = "inside the bounds", (f"change_template:{declared.standard.template}",)
            choice = Told(at=call.now, what=CHOICE, text=text, refs=refs)
            standing = self._retrainings.choose(call, run, choice, instead_of=None)
        return standing or choice

    def _chosen(self, run: RetrainingRun, choice: Told | None, *, instead_of: Told) -> None:
        with self._opened(run, "retraining.choose") as call:
            self._retrainings.choose(call, run, choice, instead_of=instead_of)

    def _start_asked(
        self, run: RetrainingRun, declared: Retraining, choice: Told
    ) -> Mapping[str, Any]:
        """The change as the door answered; asked for again, it is the same one."""
        ask = self._asking(run.principal)
        why = f"Retrained by {declared.name}: {run.cause.text}"[:1000]
        given = {"version": run.version, "reason": why}
        if declared.standard is not None and _is_standard(choice):
            given["template"] = declared.standard.template
            key = f"{run.id}/rollout/standard"
        else:
            given["reason"] = f"{why} It is no standard change: {choice.text}"[:2000]
            key = f"{run.id}/rollout"
        change: Mapping[str, Any] = ask("rollouts.start", [declared.rollout], given, key)
        return change

    def _waits_for_room(self, run: RetrainingRun) -> bool:
        """True while it is not to be asked again whether its endpoint is free."""
        again = self._room_again.get(run.id)
        return again is not None and self._calls.now() < again

    def _decided(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Once a person has decided: go on, or end."""
        with self._calls.database.reading() as connection:
            change = self._changes.get(connection, run.change or "")
        if change.state is ChangeState.WAITING:
            return False
        approved = change.state is ChangeState.APPROVED
        to = RetrainingState.DECLINED
        if approved:
            to = RetrainingState.RELEASING if declared.release else RetrainingState.DONE
        with self._opened(run, "retraining.decided") as call:
            told = f"{change.decided_by}: {change.state}. {change.decision}".strip()
            line = Told(at=call.now, what="decision", text=told, refs=(str(change.ref),))
            self._retrainings.move(call, run, to, line)
        return True

    def _release(self, run: RetrainingRun, declared: Retraining) -> bool:
        """Let the endpoint serve it, once no rollout runs on it."""
        if self._waits_for_room(run):
            return False
        asked = {"version": run.version, "activate": True}
        try:
            release = self._asking(run.principal)(
                "endpoints.deploy", [declared.endpoint], asked, f"{run.id}/release"
            )
        except RolloutRuns:
            self._room_again[run.id] = self._calls.now() + _ROOM_AGAIN
            return False
        with self._opened(run, "retraining.release") as call:
            ref = AssetRef("release", f"{declared.endpoint}/{release['id']}")
            told = f"{declared.endpoint} serves version {run.version} by {release['id']}"
            line = Told(at=call.now, what="release", text=told, refs=(str(ref),))
            self._retrainings.move(call, run, RetrainingState.DONE, line, release=release["id"])
            self._retrainings.link(call, run, ref)
        return True

    # ---- what the steps stand on

    def _opened(self, run: RetrainingRun, action: str) -> Any:
        return self._calls.opened(action, run.principal, resource=f"retraining:{run.retraining}")

    def _ended(self, run: RetrainingRun, what: str) -> Job | None:
        """The job that is waited for, if it is done; None while it goes on.

        Raises:
            Broken: it failed or was cancelled.
        """
        with self._calls.database.reading() as connection:
            job = self._jobs.get(connection, run.job or "")
        if not job.state.ended:
            return None
        if job.state is not JobState.DONE:
            told = (job.error or {}).get("message", "somebody stopped it")
            raise RetrainingBroken(f"{what} {job.state}: {told}".capitalize())
        return job

    def _made(
        self, connection: Connection, run: RetrainingRun, job: Job, model: str
    ) -> Mapping[str, Any]:
        """What the training made: exactly one version of the model."""
        told: Sequence[Any] = [job.result]
        if run.pipeline_run is not None:
            began = self._pipelines.steps(connection, run.pipeline_run)
            told = [self._jobs.get(connection, one).result for step in began for one in step.jobs]
        found = [
            one for one in told
            if isinstance(one, dict) and one.get("model") == model and one.get("version")
            and one.get("run")
        ]  # fmt: skip
        if len(found) != 1:
            raise RetrainingBroken(
                f"The training made {len(found)} versions of {model}.",
                hint="A pipeline of a retraining asks for exactly one training of its model.",
            )
        made: Mapping[str, Any] = found[0]
        return made

    def _check_pipeline(self, run: RetrainingRun, name: str) -> None:
        """Raise if somebody else has changed the pipeline since the retraining was applied.

        Whoever may apply definitions could else have anything run with somebody else's rights.
        """
        with self._calls.database.reading() as connection:
            pipeline = self._definitions.version(connection, "pipeline", name)
            mine = self._definitions.version(
                connection, Retraining.kind, run.retraining, run.definition_version
            )
        if pipeline.by != run.principal and pipeline.at > mine.at:
            raise Forbidden(
                f"{pipeline.by} has changed the pipeline {name!r} since {run.principal} applied "
                f"the retraining {run.retraining!r}.",
                hint="Look at it, and apply the retraining anew.",
            )

    def _fail(self, run: RetrainingRun, declared: Retraining, error: FalajError) -> None:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        with self._opened(run, "retraining.fail") as call:
            self._retrainings.end_badly(call, run, RetrainingState.FAILED, declared.endpoint, told)

    def _guarded(self, work: Callable[[], int], name: str) -> int:
        try:
            return work()
        except FalajError as error:
            self._log.warning("retraining not taken on", retraining=name, error=str(error))
            return 0


class RetrainingBroken(FalajError):
    """What a retraining asked for went wrong."""

    code = "retraining-broken"


def _declared(found: Any) -> Retraining:
    if not isinstance(found, Retraining):
        raise TypeError(f"{found!r} is no retraining")
    return found


def _request(declared: Retraining, run: RetrainingRun) -> dict[str, Any]:
    """The training request with the boundaries of now."""
    request, newest = declared.training, declared.newest
    if request is None or request.spec is None or newest is None:
        raise TypeError("a retraining without a pipeline has a training with a spec")
    spec = request.spec.model_copy(update={"split": newest.split(run.begun_at)})
    return request.model_copy(update={"spec": spec}).model_dump(mode="json")


def _is_standard(choice: Told) -> bool:
    """True if a standard change was chosen; the choice names its template."""
    return bool(choice.refs)


def _gates_told(report: GateReport) -> str:
    failed = [one for one in report.results if one.outcome == "failed"]
    if not failed:
        return f"all {len(report.results)} gates passed or were skipped"
    return f"failed {', '.join(one.gate for one in failed)}: {failed[0].message}"


def _version(run: RetrainingRun, version: int) -> str:
    return f"model_version:{run.model}/{version}"
