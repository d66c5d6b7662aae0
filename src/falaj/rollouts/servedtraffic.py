"""The traffic of a rollout, divided by serving; and requests of it, from the prediction log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from falaj.kernel.errors import Conflict
from falaj.models.quarantine import quarantine
from falaj.rollouts.model import CHAMPION, RolloutKind
from falaj.rollouts.ports import Began, Division
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.lake.ports import Lake
    from falaj.rollouts.records import Run
    from falaj.serving.releases import Releases
    from falaj.serving.rolloutreleases import RolloutReleases


class ServedTraffic:
    """Fulfils ``ports.Traffic`` with the releases of serving.

    Args:
        releases: tell what serves.
        rollouts: make, divide and end releases with challengers.
    """

    def __init__(self, releases: Releases, rollouts: RolloutReleases) -> None:
        self._releases = releases
        self._rollouts = rollouts

    def serving(self, connection: Connection, endpoint: str) -> str | None:
        """The id of the release that serves now; None if none does."""
        active = self._releases.active(connection, endpoint)
        return None if active is None else active.id

    def begin_rollout(self, call: Call, division: Division) -> Began:
        """Let the champion and the challengers serve, with the shares of the division."""
        rollout = division.rollout
        serving = self._releases.active(call.connection, rollout.endpoint)
        if serving is None:
            raise Conflict(
                f"{rollout.endpoint!r} serves nothing, so that there is no champion.",
                hint=f"Deploy one: `falaj endpoints deploy {rollout.endpoint} --activate`.",
            )
        interleaved = rollout.how is RolloutKind.INTERLEAVED
        release = self._rollouts.begin_rollout(
            call,
            rollout.endpoint,
            [(one.name, one.version, one.share) for one in rollout.challengers],
            salt=division.run,
            shadow=rollout.how is RolloutKind.SHADOW,
            layer=rollout.layer,
            layer_share=rollout.layer_share,
            holdout=rollout.holdout,
            segment=rollout.segment,
            period=rollout.period if interleaved else None,
            change=division.change,
        )
        self.divide(call, rollout.endpoint, division.shares)
        champion = serving.variants[0]
        place = release.assignment.layer if release.assignment else None
        return Began(
            release=release.id,
            model=champion.model,
            champion=champion.version,
            low=place.low if place else 0.0,
            high=place.high if place else 1.0,
        )

    def divide(self, call: Call, endpoint: str, shares: Mapping[str, float]) -> None:
        """Give each challenger its share from now on; the champion has the rest."""
        challengers = {name: share for name, share in shares.items() if name != CHAMPION}
        self._rollouts.divide(call, endpoint, challengers)

    def end_rollout(self, call: Call, endpoint: str, *, keep: str) -> str:
        """Let one variant serve alone; returns the id of its release."""
        return self._rollouts.end_rollout(call, endpoint, keep=keep).id

    def quarantine(self, call: Call, model: str, version: int, reason: str) -> None:
        """Let a model version not be served again before a person lifts it."""
        quarantine(call, model, version, reason)


class LoggedRequests:
    """Fulfils ``ports.Samples`` from the prediction log in the lake.

    Args:
        lake: holds the log. Only ids leave it, none of what was asked or answered.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def request_ids(self, run: Run, variant: str, *, limit: int = 20) -> list[str]:
        """The ids of the newest requests since the run began that are in the log already."""
        table = table_of(run.endpoint)
        if not self._lake.exists(table):
            return []
        found = self._lake.query(
            f"SELECT request_id, max(requested_at) AS at FROM {table} "
            "WHERE release = $release AND variant = $variant AND requested_at >= $since "
            "GROUP BY request_id ORDER BY at DESC, request_id LIMIT $limit",
            parameters={
                "release": run.release,
                "variant": variant,
                "since": run.started_at,
                "limit": limit,
            },
        )
        return [str(one) for one in found.column("request_id").to_pylist()]
