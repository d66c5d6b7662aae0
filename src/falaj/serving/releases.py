"""Releases of endpoints: made from approved model versions, switched, rolled back.

The metadata database says what should serve; the routing table says what does. A switch
is prepared in all workers first, and flipped in the moment in which its record commits.
``reconcile`` mends the routing table after a crash in between.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import (
    AlreadyExists,
    Conflict,
    FalajError,
    NotFound,
    Unavailable,
)
from falaj.kernel.telemetry import logger
from falaj.serving import tables
from falaj.serving.errors import ReleaseNotLoaded, ReleaseRefused, RolloutRuns
from falaj.serving.makingreleases import ReleaseMaker, release_ref
from falaj.serving.model import (
    Activation,
    Endpoint,
    EndpointSummary,
    Release,
    ReleaseState,
    ReleaseStatus,
)
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.serving.compiler import PlanCompiler
    from falaj.serving.ports import ApprovedModels, FeatureReaders
    from falaj.serving.routing import RoutingTable

_POLL_SECONDS = 0.01


class Releases:
    """Makes and switches releases.

    Args:
        table: the routing table that all workers of this machine read.
        compiler: proves that a release can be served before anybody is asked to.
        approved: tells which model versions may be served.
        features: describes feature services; None where there are none.
        catalog: where endpoints and releases are assets.
    """

    def __init__(
        self,
        table: RoutingTable,
        compiler: PlanCompiler,
        approved: ApprovedModels,
        features: FeatureReaders | None,
        catalog: Catalog,
    ) -> None:
        self._table = table
        self._compiler = compiler
        self._approved = approved
        self._maker = ReleaseMaker(approved, features, catalog)
        self._catalog = catalog

    # -- definitions ----------------------------------------------------------------

    def applied(self, call: Call, definition: Endpoint) -> None:
        """Take over a created or changed definition (the applier of kind ``endpoint``).

        A change takes effect with the next release.

        Raises:
            AlreadyExists: another endpoint logs to the same lake table.
        """
        name, lake_table = definition.name, table_of(definition.name)
        taken = call.connection.execute(
            select(tables.endpoints.c.name).where(
                tables.endpoints.c.lake_table == lake_table, tables.endpoints.c.name != name
            )
        ).scalar()
        if taken is not None:
            raise AlreadyExists(
                f"The endpoints {taken!r} and {name!r} would both log to the table {lake_table!r}.",
                hint="Choose a name that differs by more than dashes and underscores.",
            )
        values = {"document": definition.document(), "updated_at": call.now}
        if tables.endpoint_row(call.connection, name, locked=True) is None:
            call.connection.execute(
                insert(tables.endpoints).values(name=name, lake_table=lake_table, **values)
            )
        else:
            call.connection.execute(
                update(tables.endpoints).where(tables.endpoints.c.name == name).values(**values)
            )

    def endpoint(self, connection: Connection, name: str) -> Endpoint:
        """The definition of an endpoint; raises NotFound."""
        return _endpoint(_found(tables.endpoint_row(connection, name), name))

    def listed(self, connection: Connection) -> list[EndpointSummary]:
        """All endpoints by name."""
        found = []
        for row in tables.endpoint_rows(connection):
            active = self._active(connection, row)
            found.append(
                EndpointSummary(
                    name=row.name,
                    model=row.document["model"],
                    active=row.active,
                    version=active.variants[0].version if active else None,
                )
            )
        return found

    # -- releases -------------------------------------------------------------------

    def deploy(self, call: Call, name: str, version: int | None = None) -> Release:
        """Make a release of an approved model version; it serves nothing yet.

        Args:
            call: the call in whose transaction this happens.
            name: the endpoint.
            version: of its model; the one in production if None.

        Raises:
            NotFound: no such endpoint, model or version.
            Conflict: the version is not approved for production.
            Corrupt: its bundle does not verify.
            InvalidInput: an input of the model would come from nowhere.
        """
        endpoint = self.endpoint(call.connection, name)
        approved = self._approved.approved(call.connection, endpoint.model, version)
        release = self.kept(call, self._maker.made(call, endpoint, approved))
        tables.at_commit(call.connection, lambda: self._table.announce(name, release.id))
        return release

    def kept(self, call: Call, release: Release) -> Release:
        """Keep a release that can be served; it serves nothing yet.

        Raises:
            Corrupt: a bundle does not verify.
            InvalidInput: an input of a model would come from nowhere.
        """
        name = release.endpoint
        self._compiler.compile(release)  # verifies the bundle; refuses what cannot be served
        tables.keep_release(
            call.connection,
            id=release.id,
            endpoint=name,
            document=release.model_dump(mode="json"),
            state=ReleaseState.DEPLOYED,
            created_at=call.now,
        )
        self._maker.record(call, release)
        self._table.write(release)
        call.note(release=release.id, model=release.model, bundle=release.variants[0].bundle)
        call.emit("release.deployed", endpoint=name, release=release.id, model=release.model)
        return release

    def activate(
        self, call: Call, name: str, release_id: str, *, wait_seconds: float = 15.0
    ) -> Release:
        """Let a release serve: first every worker prepares it, then all switch at once.

        When the call has returned, every later request is answered by this release.

        Raises:
            NotFound: no such endpoint or release.
            Conflict: the model version is not approved any more, or the release is retired or
                was made for a rollout.
            RolloutRuns: a rollout runs on the endpoint.
            ReleaseRefused: a worker cannot load it; nothing was switched.
            Unavailable: a worker did not prepare it in time; nothing was switched.
        """
        row = self.locked(call.connection, name)
        release = self._release(call.connection, name, release_id)
        _check_by_hand(release, self._active(call.connection, row))
        for variant in release.variants:
            for member in variant.pinned:
                self._approved.approved(call.connection, member.model, member.version)
        return self.switched(call, row, release, wait_seconds)

    def rollback(self, call: Call, name: str, *, wait_seconds: float = 15.0) -> Release:
        """Let the release that served before this one serve again.

        While a rollout runs, that is the one that served before it: its rollout has ended then.

        Raises:
            NotFound: no such endpoint.
            Conflict: nothing served before, or its model version was taken out of production.
            ReleaseRefused, Unavailable: as for ``activate``.
        """
        row = _found(tables.endpoint_row(call.connection, name, locked=True), name)
        previous = self._before(call.connection, name)
        if previous is None:
            raise Conflict(
                f"No other release of {name!r} has served before.",
                hint="Deploy one: `falaj endpoints deploy NAME`.",
            )
        call.note(rolled_back_from=row.active)
        release = self._release(call.connection, name, previous)
        self._check_sound(call.connection, release)
        return self.switched(call, row, release, wait_seconds)

    def retire(self, call: Call, name: str, release_id: str) -> None:
        """Let a release serve never again: it is neither activated nor rolled back to.

        Raises:
            NotFound: no such endpoint or release.
            Conflict: it serves now.
        """
        row = _found(tables.endpoint_row(call.connection, name, locked=True), name)
        release = self._release(call.connection, name, release_id)
        if row.active == release.id:
            raise Conflict(
                f"The release {release.id} of {name!r} serves now.",
                hint="Activate another one, or deactivate the endpoint first.",
            )
        tables.retire(call.connection, release.id)

        def withdrawn() -> None:
            if self._table.announced()[1].get(name) == release.id:
                self._table.withdraw(name)

        tables.at_commit(call.connection, withdrawn)
        self._catalog.record(
            call, release_ref(name, release.id), attributes={"state": str(ReleaseState.RETIRED)}
        )
        call.emit("release.retired", endpoint=name, release=release.id)

    def locked(self, connection: Connection, name: str) -> Any:
        """The row of an endpoint, which nobody else switches until this transaction ends."""
        return _found(tables.endpoint_row(connection, name, locked=True), name)

    def deactivate(self, call: Call, name: str) -> None:
        """Let an endpoint serve nothing; its releases stay."""
        row = _found(tables.endpoint_row(call.connection, name, locked=True), name)
        if row.active is None:
            return
        tables.switch(call.connection, name, None, row.active, at=call.now, by=call.principal.id)
        tables.at_commit(call.connection, lambda: self._table.flip(name, None))
        call.emit("endpoint.deactivated", endpoint=name, previous=row.active)

    def withdraw(self, call: Call, revoked: Callable[[str], bool]) -> list[str]:
        """Deactivate endpoints whose release has a revoked bundle; fulfils ``models.ports``.

        Where only a challenger of a rollout is revoked, the champion serves on alone.
        """
        stopped = []
        for row in tables.endpoint_rows(call.connection, locked=True):
            release = self._active(call.connection, row)
            if release is None:
                continue
            pinned = [member for variant in release.variants for member in variant.pinned]
            if not any(revoked(member.bundle) for member in pinned):
                continue
            base = self._champion_alone(call.connection, release)
            if base is None or any(
                revoked(member.bundle) for variant in base.variants for member in variant.pinned
            ):
                self.deactivate(call, row.name)
            else:
                self._flipped(call, row, base)
            stopped.append(str(row.name))
        return stopped

    def _champion_alone(self, connection: Connection, release: Release) -> Release | None:
        """Of a rollout: the release from which it began, if that may serve."""
        row = tables.release_row(connection, release.base or "")
        if row is None or row.state == ReleaseState.RETIRED:
            return None
        return Release.model_validate(row.document)

    def active(self, connection: Connection, name: str) -> Release | None:
        """The active release of an endpoint; raises NotFound."""
        return self._active(connection, _found(tables.endpoint_row(connection, name), name))

    def statuses(self, connection: Connection, name: str) -> list[ReleaseStatus]:
        """The releases of an endpoint, the newest first; raises NotFound."""
        _found(tables.endpoint_row(connection, name), name)
        return [
            ReleaseStatus(
                release=Release.model_validate(row.document),
                state=ReleaseState(row.state),
                activated_at=row.activated_at,
                activated_by=row.activated_by,
            )
            for row in tables.release_rows(connection, name)
        ]

    def history(self, connection: Connection, name: str) -> list[Activation]:
        """Every switch of an endpoint, the newest first; raises NotFound."""
        _found(tables.endpoint_row(connection, name), name)
        return [
            Activation(
                endpoint=row.endpoint,
                release=row.release,
                previous=row.previous,
                at=row.at,
                by=row.by,
            )
            for row in tables.activation_rows(connection, name)
        ]

    def reconcile(self, connection: Connection) -> list[str]:
        """Bring the routing table to what the database says; returns the mended endpoints.

        Needs a read-write transaction, so that it waits for a switch that is going on.
        Run it when a machine starts, and now and then: a crash between the flip and the
        commit, or a new machine, leaves the table apart from the database. A release that
        may not serve any more (its bundle does not verify, its model version was taken out of
        production) does not become active here either: its endpoint serves nothing.
        """
        _, before = self._table.active()
        rows = tables.endpoint_rows(connection, locked=True)
        _, routes = self._table.active()
        mended = []
        for row in rows:
            wanted = row.active
            served = routes.pop(row.name, None)
            if served == wanted:
                continue
            if wanted is not None:
                wanted = self._sound(connection, row.name, wanted)
            if served != wanted:
                self._table.flip(row.name, wanted)
                mended.append(row.name)
        # An endpoint that was made while the rows were waited for is not among them.
        for stranger in routes.keys() & before.keys():
            self._table.flip(stranger, None)
            mended.append(stranger)
        return [*mended, *(name for name in self._splits_mended(connection) if name not in mended)]

    def _splits_mended(self, connection: Connection) -> list[str]:
        """Divide the units of each endpoint as the database says."""
        wanted = tables.wanted_splits(connection)
        _, routes, divided = self._table.served()
        apart = [
            name
            for name in routes.keys() & (wanted.keys() | divided.keys())
            if wanted.get(name) != divided.get(name)
            and (name not in wanted or wanted[name].release == routes[name])
        ]
        for name in apart:
            self._table.split(name, wanted.get(name))
        return sorted(apart)

    def apart(self, connection: Connection) -> bool:
        """True if the routing table does not say what the database says; only reads."""
        wanted = {row.name: row.active for row in tables.endpoint_rows(connection) if row.active}
        _, routes, divided = self._table.served()
        return wanted != routes or tables.wanted_splits(connection) != divided

    def _sound(self, connection: Connection, name: str, release_id: str) -> str | None:
        """The id of a release that may be switched to, written to the table; None if it may not."""
        base = None
        try:
            release = self._release(connection, name, release_id)
            base = release.base
            self._check_sound(connection, release)
            self._compiler.compile(release)  # verifies the bundle
        except FalajError as error:
            logger(__name__).error(
                "release does not become active",
                endpoint=name,
                release=release_id,
                error=str(error),
            )
            # What is wrong with a challenger is no reason to serve nothing.
            return None if base is None else self._sound(connection, name, base)
        self._table.write(release)
        return release.id

    def _check_sound(self, connection: Connection, release: Release) -> None:
        """Return if all that a release pins may (still) serve; raises Conflict, Corrupt."""
        of_champion = set(release.variants[0].pinned)
        for member in {one for variant in release.variants for one in variant.pinned}:
            if release.assignment is None or member in of_champion:
                self._approved.may_return(connection, member.model, member.version)
            else:
                self._approved.challenging(connection, member.model, member.version)

    # -- inside ---------------------------------------------------------------------

    def switched(self, call: Call, row: Any, release: Release, wait_seconds: float) -> Release:
        """Let a release serve in two phases; whether it may is not asked here.

        Args:
            call: the call in whose transaction this happens.
            row: of the endpoint, locked.
            release: kept already.
            wait_seconds: so long may the workers take to prepare it.

        Raises:
            Conflict: it is retired.
            ReleaseRefused, Unavailable: as for ``activate``.
        """
        name = release.endpoint
        if row.active == release.id:
            return release
        if tables.release_row(call.connection, release.id).state == ReleaseState.RETIRED:
            raise Conflict(
                f"The release {release.id} of {name!r} is retired.",
                hint="Deploy the model version again: `falaj endpoints deploy NAME`.",
            )
        self._compiler.compile(release)  # verifies the bundle again, at this moment
        self._table.write(release)
        self._table.announce(name, release.id)
        try:
            self._await_workers(release.id, wait_seconds)
        except (ReleaseRefused, Unavailable):
            self._table.withdraw(name)
            raise
        self._flipped(call, row, release)
        return release

    def _flipped(self, call: Call, row: Any, release: Release) -> None:
        """Let a release serve from the commit on, whether workers are ready for it or not."""
        name = release.endpoint
        self._table.write(release)
        tables.switch(
            call.connection, name, release.id, row.active, at=call.now, by=call.principal.id
        )
        tables.at_commit(call.connection, lambda: self._table.flip(name, release.id))
        ref = AssetRef("endpoint", name)
        self._catalog.record(call, ref, attributes={"release": release.id})
        call.note(release=release.id, previous=row.active)
        call.emit("release.activated", endpoint=name, release=release.id, previous=row.active)

    def _await_workers(self, release: str, wait_seconds: float) -> None:
        """Return when every living worker has the release ready."""
        until = time.monotonic() + wait_seconds
        while True:
            workers = self._table.workers()
            told = {worker.id: worker.prepared.get(release) for worker in workers}
            refused = {name: why for name, why in told.items() if why not in (None, "ready")}
            if refused:
                worker, why = next(iter(refused.items()))
                raise ReleaseRefused(
                    f"The worker {worker} cannot load the release: {why}",
                    hint="Nothing was switched; mend the cause and activate again.",
                )
            waiting = [name for name, why in told.items() if why is None]
            if not waiting:
                return
            if time.monotonic() > until:
                raise ReleaseNotLoaded(
                    f"The workers {', '.join(waiting)} did not load the release in "
                    f"{wait_seconds:g} s.",
                    hint="Nothing was switched; see `falaj endpoints status NAME`.",
                )
            time.sleep(_POLL_SECONDS)

    def _before(self, connection: Connection, name: str) -> str | None:
        """The release below the active one, when each switch back takes one off the pile."""
        left_out = {
            row.id
            for row in tables.release_rows(connection, name)
            if row.state == ReleaseState.RETIRED or row.document.get("assignment")
        }
        pile: list[str] = []
        for row in reversed(tables.activation_rows(connection, name)):
            if row.release is None or row.release in left_out:
                continue
            if row.release in pile:
                del pile[pile.index(row.release) + 1 :]
            else:
                pile.append(row.release)
        active = tables.endpoint_row(connection, name).active
        if active is None or active in left_out:
            return pile[-1] if pile else None
        return pile[-2] if len(pile) > 1 else None

    def _active(self, connection: Connection, row: Any) -> Release | None:
        return None if row.active is None else self._release(connection, row.name, row.active)

    def _release(self, connection: Connection, name: str, release_id: str) -> Release:
        row = tables.release_row(connection, release_id)
        if row is None or row.endpoint != name:
            raise NotFound(
                f"{name!r} has no release {release_id!r}.",
                hint="`falaj endpoints releases NAME` lists them.",
            )
        return Release.model_validate(row.document)


def _endpoint(row: Any) -> Endpoint:
    return Endpoint.model_validate({k: v for k, v in row.document.items() if k != "kind"})


def _check_by_hand(release: Release, active: Release | None) -> None:
    """Return if a release may be activated by hand: no rollout has to do with it."""
    if active is not None and active.assignment is not None and active.id != release.id:
        raise RolloutRuns(
            f"A rollout runs on {release.endpoint!r}, with the release {active.id}.",
            hint="Stop the rollout first, or roll back: `falaj endpoints rollback NAME`.",
        )
    if release.assignment is not None:
        raise Conflict(
            f"The release {release.id} was made for a rollout.",
            hint="Only a rollout activates it: start one.",
        )


def _found(row: Any, name: str) -> Any:
    if row is None:
        raise NotFound(
            f"There is no endpoint {name!r}.",
            hint="Declare it and run `falaj apply`; `falaj endpoints list` shows them.",
        )
    return row
