"""The start of a rollout: asked for by one, approved by another, begun with the approval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.kernel.call import AssetRef
from falaj.kernel.clock import Clock, SystemClock
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.ids import new_id
from falaj.operations.histories import add_entry
from falaj.rollouts import runs
from falaj.rollouts.concluding import shares_at
from falaj.rollouts.model import Rollout, RolloutState
from falaj.rollouts.ports import Division
from falaj.rollouts.records import Run, Step
from falaj.serving.layers import Layer, Stretch

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.kernel.call import Call
    from falaj.operations.changes import Changes
    from falaj.operations.model import Change
    from falaj.rollouts.model import Metric
    from falaj.rollouts.ports import Traffic, Versions

START = "rollout.start"
"""The kind of the change that starts a rollout."""


class RolloutUnderway(Conflict):
    """An endpoint has a rollout already, or one of the same layer takes its units."""

    code = "rollout-underway"


class Starting:
    """Asks for starts, and begins what was approved.

    Args:
        definitions: hold the rollouts.
        changes: where a start is asked for.
        traffic: divides the units.
        check: raises unless the rollout can be measured, and by the one who asks for it.
        clock: tells when the workers had switched; None: the machine's own.
        versions: tell of versions that take a declared challenger's place; None: none may.
    """

    def __init__(
        self,
        definitions: Definitions,
        changes: Changes,
        traffic: Traffic,
        check: Callable[[Call, Rollout], None],
        clock: Clock | None = None,
        versions: Versions | None = None,
    ) -> None:
        self._definitions = definitions
        self._changes = changes
        self._traffic = traffic
        self._check = check
        self._clock = clock or SystemClock()
        self._versions = versions

    def declared(self, connection: Connection, name: str) -> Rollout:
        """A rollout as it is declared now; raises NotFound."""
        rollout = self._definitions.definition(connection, "rollout", name)
        if not isinstance(rollout, Rollout):
            raise TypeError(f"{name!r} is applied as {type(rollout).__name__}")
        return rollout

    def listed(self, connection: Connection) -> list[Rollout]:
        """All declared rollouts by name."""
        kept = self._definitions.listed(connection, kind="rollout")
        return [self.declared(connection, one.name) for one in kept]

    def ask(
        self,
        call: Call,
        name: str,
        reason: str,
        *,
        version: int | None = None,
        template: str | None = None,
    ) -> Change:
        """Open the change that, approved, starts a rollout as it is declared now.

        Args:
            call: of the one who asks.
            name: of the rollout.
            reason: why, for the approver.
            version: is tried in the place of its one challenger's, as a retraining asks for it.
                A version in development takes staging with the approval.
            template: of standard changes; inside its bounds the rollout begins at once.

        Raises:
            NotFound: no such rollout is declared, or no such version or template.
            Forbidden: the caller may not read what its metrics read.
            InvalidInput: it cannot be measured as it is declared, or has several challengers
                and a version is given.
            RolloutUnderway: its endpoint has one, or its layer has no room.
            Conflict: its endpoint serves nothing, or the version may not be tried.
            OutsideBounds: it is not inside the template.
            AlreadyExists: the same start waits for an approval already.
        """
        rollout = self.declared(call.connection, name)
        told: dict[str, Any] = {}
        if version is not None:
            rollout = with_version(rollout, version)
            if self._versions is None:
                raise InvalidInput("Versions other than the declared ones are not tried here.")
            told = self._versions.told(call, rollout.endpoint, version)
        self._check(call, rollout)
        serving = self._free(call.connection, rollout)
        document = rollout.model_dump(mode="json")
        payload = {"rollout": document, "metrics": self._metrics(call.connection, rollout)}
        evidence = {
            "serving": serving,
            "how": str(rollout.how),
            "challengers": document["challengers"],
            "guardrails": document["guardrails"],
            "success": document["success"],
            "fingerprint": rollout.fingerprint,
        }
        title = f"Start the rollout {name} on {rollout.endpoint}"
        if told:
            evidence["version"] = told
            payload["version"] = {"model": told["model"], "version": version}
            title += f" with version {version} of {told['model']}"
        change: dict[str, Any] = {
            "kind": START,
            "subject": AssetRef("rollout", name),
            "title": title,
            "reason": reason,
            "evidence": evidence,
            "payload": payload,
        }
        if template is not None:
            return self._changes.carry_out_standard(call, template, **change)
        return self._changes.open(call, **change)

    def begin(self, call: Call, change: Change) -> None:
        """Begin a rollout whose start was approved, as it was declared when it was asked for.

        It joins the transaction of the approval: both hold or neither.

        Raises:
            RolloutUnderway: meanwhile another one has begun.
            Conflict: meanwhile one of its metrics was declared anew.
            Conflict, ReleaseRefused, Unavailable: champion and challengers cannot be served.
        """
        rollout = Rollout.model_validate(change.payload["rollout"])
        self._definitions.alone(call.connection)  # two of one layer must not take one stretch
        if change.payload["metrics"] != self._metrics(call.connection, rollout):
            raise Conflict(
                f"A metric of {rollout.name!r} is not any more what it was when the start was "
                "asked for.",
                hint="Reject this change, and ask for the start again.",
            )
        self._free(call.connection, rollout)
        tried = change.payload.get("version")
        if tried is not None and self._versions is not None:
            self._versions.staged(call, change, tried["model"], tried["version"])
        shares = shares_at(rollout, 0)
        run_id = new_id("rol")
        began = self._traffic.begin_rollout(
            call, Division(run=run_id, rollout=rollout, shares=shares, change=change.id)
        )
        # Workers may have loaded for seconds, in which the champion alone served.
        now = max(call.now, self._clock.now())
        told: dict[str, Any] = {
            "id": run_id,
            "name": rollout.name,
            "endpoint": rollout.endpoint,
            "layer": rollout.layer,
            "low": began.low,
            "high": began.high,
            "rollout": rollout,
            "state": RolloutState.RUNNING,
            "step": Step.LOOK,
            "change": change.id,
            "release": began.release,
            "model": began.model,
            "champion": began.champion,
            "stage_since": now,
            "shares": shares,
            "shares_since": now,
            "started_at": now,
            "started_by": change.requested_by,
            "due_at": now,  # the first look takes the counters down from which others count
        }
        if not runs.begun(call.connection, Run(**told)):
            raise _taken(rollout.endpoint)
        add_entry(call, run_id, "started", change.reason)
        call.note(run=run_id, release=began.release, shares=shares)
        call.emit(
            "rollout.started",
            id=run_id,
            subject=f"rollout:{rollout.name}",
            endpoint=rollout.endpoint,
            title=f"The rollout {rollout.name} has started on {rollout.endpoint}",
            text=change.reason,
        )

    def metric_applied(self, call: Call, metric: Metric) -> None:
        """Refuse to change a metric by which a rollout is measured (its kind's applier).

        Who started the rollout was allowed to read what the metric read then; and figures of
        two metrics under one name are no evidence.

        Raises:
            Conflict: an open rollout is measured by it.
        """
        for run in runs.all_open(call.connection):
            if metric.ref in run.rollout.references():
                raise Conflict(
                    f"The rollout {run.name!r} is measured by the metric {metric.name!r}.",
                    hint="Wait until it has ended, or declare a metric of another name.",
                )

    def _metrics(self, connection: Connection, rollout: Rollout) -> dict[str, str]:
        """The fingerprints of the declared metrics of a rollout, by name."""
        names = [ref.key for ref in rollout.references() if ref.kind == "metric"]
        return {
            name: self._definitions.definition(connection, "metric", name).fingerprint
            for name in names
        }

    def _free(self, connection: Connection, rollout: Rollout) -> str:
        """What serves now, if there is room for the rollout beside it."""
        standing = runs.open_on(connection, rollout.endpoint)
        if standing is not None:
            raise _taken(rollout.endpoint, standing)
        serving = self._traffic.serving(connection, rollout.endpoint)
        if serving is None:
            raise Conflict(
                f"{rollout.endpoint!r} serves nothing, so that there is no champion.",
                hint=f"Deploy one first: `falaj endpoints deploy {rollout.endpoint} --activate`.",
            )
        _check_room(connection, rollout)
        return serving


def with_version(rollout: Rollout, version: int) -> Rollout:
    """A rollout of one challenger, with another version in its place; raises InvalidInput."""
    if len(rollout.challengers) != 1:
        raise InvalidInput(
            f"The rollout {rollout.name!r} has {len(rollout.challengers)} challengers: in whose "
            f"place version {version} is tried cannot be told.",
            hint="Declare a rollout of one challenger.",
        )
    challenger = rollout.challengers[0].model_copy(update={"version": version})
    return rollout.model_copy(update={"challengers": (challenger,)})


def _check_room(connection: Connection, rollout: Rollout) -> None:
    """Return if the rollout's layer has a stretch left for it."""
    if rollout.layer is None:
        return
    standing = runs.open_in(connection, rollout.layer)
    layer = Layer(rollout.layer, {one.id: Stretch(one.low, one.high) for one in standing})
    try:
        layer.with_rollout(rollout.name, rollout.layer_share)
    except InvalidInput as error:
        names = ", ".join(f"{one.name} ({one.high - one.low:.0%})" for one in standing)
        raise RolloutUnderway(
            f"The layer {rollout.layer!r} has no room for {rollout.layer_share:.0%} of its units; "
            f"it is shared by {names}.",
            hint="Wait until one of them ends, or declare a smaller `layer_share`.",
        ) from error


def _taken(endpoint: str, standing: Run | None = None) -> RolloutUnderway:
    which = f"the rollout {standing.name!r} ({standing.state})" if standing else "another rollout"
    return RolloutUnderway(
        f"On {endpoint!r} {which} is underway; an endpoint has one at a time.",
        hint="Wait until it has ended, or stop it: `falaj rollouts stop NAME --reason …`.",
    )
