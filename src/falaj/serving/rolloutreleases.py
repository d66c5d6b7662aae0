"""Releases of rollouts: a champion with challengers beside it, divided while they serve.

The release is immutable as all are; the shares that change are kept beside it (``splits``).
The metadata database says what they should be, the routing table what they are; a change is
flipped in the moment in which it commits, and ``Releases.reconcile`` mends what a crash in
between leaves apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.ids import new_id
from falaj.serving import tables
from falaj.serving.errors import NoRolloutRuns, RolloutRuns
from falaj.serving.layers import Layer
from falaj.serving.model import Release, ReleaseState, Variant
from falaj.serving.splits import CHAMPION, Assignment, LayerPlace, Split

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.serving.model import Approved
    from falaj.serving.ports import ApprovedModels
    from falaj.serving.releases import Releases
    from falaj.serving.routing import RoutingTable

_SLACK = 1e-9


class RolloutReleases:
    """Begins, divides and ends the releases of rollouts.

    Args:
        releases: keeps and switches releases.
        table: the routing table that all workers of this machine read.
        approved: tells which model versions may be tried.
    """

    def __init__(self, releases: Releases, table: RoutingTable, approved: ApprovedModels) -> None:
        self._releases = releases
        self._table = table
        self._approved = approved

    def begin_rollout(
        self,
        call: Call,
        endpoint: str,
        challengers: Sequence[tuple[str, int, float]],
        *,
        salt: str,
        shadow: bool = False,
        layer: str | None = None,
        layer_share: float = 1.0,
        holdout: float = 0.0,
        segment: str | None = None,
        period: timedelta | None = None,
        change: str | None = None,
        wait_seconds: float = 15.0,
    ) -> Release:
        """Let the champion that serves now serve on, with challengers that nobody meets yet.

        The release that it makes has all else (features, fields, limits) as the active one
        has it. Workers load the challengers before anything is switched.

        Args:
            call: the call in whose transaction this happens.
            endpoint: its name.
            challengers: name, version of the endpoint's model, and the largest share of the
                units that it will ever get.
            salt: of the rollout; with the same salt the same units meet the same challengers.
            shadow: the challengers run behind the answer, on their share of the rows.
            layer, layer_share: only units in a stretch of that layer take part; no other
                rollout of the layer has them.
            holdout: of all units, the share that no rollout of the endpoint may have.
            segment, period: whole values of this request field alternate between the variants,
                from period to period.
            change: the approved change that permits it.
            wait_seconds: so long may the workers take.

        Raises:
            NotFound: no such endpoint, or no such version of its model.
            Conflict: the endpoint serves nothing, or a challenger may not be tried.
            RolloutRuns: a rollout runs on the endpoint already.
            InvalidInput: the shares do not fit, the layer has no room, there is no unit to
                divide by, or a challenger does not fit the release.
            ReleaseRefused, Unavailable: a worker did not load it; nothing was switched.
        """
        row = self._releases.locked(call.connection, endpoint)
        champion = self._releases.active(call.connection, endpoint)
        if champion is None:
            raise Conflict(
                f"The endpoint {endpoint!r} serves nothing, so there is no champion.",
                hint="Deploy a release first: `falaj endpoints deploy NAME --activate`.",
            )
        if champion.assignment is not None:
            raise RolloutRuns(
                f"A rollout runs on {endpoint!r}, with the release {champion.id}.",
                hint="Stop it first; an endpoint has one rollout at a time.",
            )
        given = {
            "salt": salt,
            "final": {name: share for name, _, share in challengers},
            "layer": self._place(call.connection, endpoint, layer, layer_share),
            "holdout": holdout,
            "segment": segment,
            "period": period,
            "base": champion.id,
        }
        lead = champion.variants[0].model_copy(update={"name": CHAMPION, "share": 1.0})
        variants = [lead]
        for name, version, _ in challengers:
            found = self._approved.challenging(call.connection, lead.model, version)
            if found.outputs != champion.outputs:
                raise Conflict(
                    f"{lead.model}/{version} gives {', '.join(found.outputs)}, the champion "
                    f"{', '.join(champion.outputs)}: they do not answer the same question.",
                    hint="Deploy it to an endpoint of its own.",
                )
            variants.append(_challenger(lead, found, name, shadow=shadow))
        unit = self._releases.endpoint(call.connection, endpoint).unit or champion.unit
        release = _release(call, champion, variants, given, unit=unit, change=change)
        self._releases.kept(call, release)
        call.note(rollout=salt, challengers=[one.label for one in variants[1:]])
        return self._releases.switched(call, row, release, wait_seconds)

    def divide(self, call: Call, endpoint: str, shares: Mapping[str, float]) -> Split:
        """Give challengers other shares of the units, from the commit on.

        Nothing is compiled or loaded, and no worker is waited for: every request that begins
        behind the commit is divided so, also in a worker that was suspended. A challenger that
        is not named keeps what it has.

        Args:
            call: the call in whose transaction this happens.
            endpoint: its name.
            shares: by challenger, each at most its final share.

        Raises:
            NotFound: no such endpoint.
            NoRolloutRuns: it serves no release of a rollout.
            InvalidInput: there is no such challenger, or a share is beyond its final one.
            Conflict: a share grows, and the challenger may not be tried any more.
        """
        self._releases.locked(call.connection, endpoint)
        release = self._running(call.connection, endpoint)
        before = self.split(call.connection, endpoint)
        final = release.assignment.final if release.assignment else {}
        for name, share in shares.items():
            if name not in final or not 0 <= share <= final[name] + _SLACK:
                raise InvalidInput(
                    f"{name!r} can not have a share of {share!r} in the rollout on {endpoint!r}.",
                    hint="Final shares: "
                    + ", ".join(f"{one} {last:g}" for one, last in final.items())
                    + ".",
                )
            if share > before.shares.get(name, 0.0):
                self._check_tried(call.connection, release, name)
        now = {**before.shares, **{name: min(one, final[name]) for name, one in shares.items()}}
        split = before.model_copy(update={"shares": now, "revision": before.revision + 1})
        tables.keep_split(call.connection, split, at=call.now, by=call.principal.id)
        tables.at_commit(call.connection, lambda: self._table.split(endpoint, split))
        call.note(release=release.id, shares=now, before=before.shares)
        call.emit(
            "split.changed",
            endpoint=endpoint,
            release=release.id,
            shares=now,
            before=before.shares,
        )
        return split

    def halt(self, endpoint: str) -> bool:
        """Let no later request on this machine meet a challenger, before anything is recorded.

        For a rollback whose transaction may have to wait: on SQLite an activation of another
        endpoint holds the only writer's lock until its workers have loaded. Call ``divide``
        behind it: what is not committed is taken back when the table is next reconciled.

        Returns:
            False if the endpoint serves no challenger here.
        """
        _, _, splits = self._table.served()
        split = splits.get(endpoint)
        if split is None or not any(split.shares.values()):
            return False
        self._table.split(endpoint, split.model_copy(update={"shares": {}}))
        return True

    def end_rollout(
        self, call: Call, endpoint: str, *, keep: str = CHAMPION, wait_seconds: float = 15.0
    ) -> Release:
        """Let one variant alone serve from now on.

        The champion returns as the release from which the rollout began. It waits until the
        workers have loaded that; to take requests from a challenger at once, ``divide`` first.

        Args:
            call: the call in whose transaction this happens.
            endpoint: its name.
            keep: the variant; a challenger must be approved for production by now.
            wait_seconds: so long may the workers take.

        Raises:
            NotFound: no such endpoint.
            NoRolloutRuns: it serves no release of a rollout.
            InvalidInput: there is no such variant.
            Conflict: the variant may not serve alone.
            ReleaseRefused, Unavailable: a worker did not load it; nothing was switched.
        """
        row = self._releases.locked(call.connection, endpoint)
        running = self._running(call.connection, endpoint)
        kept = next((one for one in running.variants if one.name == keep), None)
        if kept is None:
            raise InvalidInput(
                f"The rollout on {endpoint!r} has no variant {keep!r}.",
                hint=f"It has {', '.join(one.name for one in running.variants)}.",
            )
        change = running.change
        for member in kept.pinned:
            if keep == CHAMPION:
                self._approved.may_return(call.connection, member.model, member.version)
            else:
                found = self._approved.approved(call.connection, member.model, member.version)
                change = found.change if member.model == kept.model else change
        call.note(kept=keep)
        return self._releases.switched(
            call, row, self._alone(call, running, kept, change), wait_seconds
        )

    def split(self, connection: Connection, endpoint: str) -> Split:
        """The present split of an endpoint; raises NotFound, NoRolloutRuns."""
        release = self._running(connection, endpoint)
        row = tables.split_row(connection, endpoint)
        if row is not None and row.release == release.id:
            return tables.split_of(row)
        final = release.assignment.final if release.assignment else {}
        return Split(endpoint=endpoint, release=release.id, shares=dict.fromkeys(final, 0.0))

    # -- inside ---------------------------------------------------------------------

    def _running(self, connection: Connection, endpoint: str) -> Release:
        release = self._releases.active(connection, endpoint)
        if release is None or release.assignment is None:
            raise NoRolloutRuns(
                f"No rollout runs on {endpoint!r}.", hint="Start one, or see what serves."
            )
        return release

    def _check_tried(self, connection: Connection, release: Release, name: str) -> None:
        for variant in release.variants:
            if variant.name == name:
                self._approved.challenging(connection, variant.model, variant.version)

    def _alone(self, call: Call, running: Release, kept: Variant, change: str | None) -> Release:
        """The release of one variant alone: the one before the rollout, or a new one."""
        base = tables.release_row(call.connection, running.base or "")
        if kept.name == CHAMPION and base is not None and base.state != ReleaseState.RETIRED:
            return Release.model_validate(base.document)
        alone = kept.model_copy(update={"name": CHAMPION, "share": 1.0, "shadow": False})
        made = _release(call, running, [alone], None, unit=running.unit, change=change)
        return self._releases.kept(call, made)

    def _place(
        self, connection: Connection, endpoint: str, layer: str | None, share: float
    ) -> LayerPlace | None:
        """A stretch of a layer that no rollout that runs has."""
        if layer is None:
            return None
        tables.lock_layer(connection, layer)
        taken = {}
        for row in tables.endpoint_rows(connection):
            other = self._releases.active(connection, row.name) if row.active else None
            place = None if other is None or other.assignment is None else other.assignment.layer
            if place is not None and place.name == layer:
                taken[row.name] = place.stretch
        found = Layer(layer, taken).with_rollout(endpoint, share).stretches[endpoint]
        return LayerPlace(name=layer, low=found.low, high=found.high)


def _challenger(champion: Variant, found: Approved, name: str, *, shadow: bool) -> Variant:
    """The champion with the challenger's version in the place of its own."""
    own = {"version": found.version, "bundle": found.bundle}
    members = tuple(
        member.model_copy(update=own) if member.model == champion.model else member
        for member in champion.members
    )
    return champion.model_copy(
        update={**own, "name": name, "share": 0.0, "members": members, "shadow": shadow}
    )


def _release(
    call: Call,
    like: Release,
    variants: Sequence[Variant],
    assignment: Mapping[str, Any] | None,
    *,
    unit: str | None,
    change: str | None,
) -> Release:
    """A release like another one, of other variants; raises InvalidInput."""
    try:
        return Release(
            **{
                **dict(like),
                "id": new_id("release"),
                "variants": tuple(variants),
                "assignment": None if assignment is None else Assignment(**assignment),
                "unit": unit,
                "change": change,
                "created_at": call.now,
                "created_by": call.principal.id,
            }
        )
    except ValidationError as error:
        told = "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())
        raise InvalidInput(
            f"There can be no such rollout on {like.endpoint!r}: {told}.",
            hint="Declare the endpoint's unit, and shares that sum to at most 1.",
        ) from error
