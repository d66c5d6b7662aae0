"""Releases of endpoints: made from approved model versions, switched, rolled back.

The metadata database says what should serve; the routing table says what does. A switch
is prepared in all workers first, and flipped in the moment in which its record commits.
``reconcile`` mends the routing table after a crash in between.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import (
    AlreadyExists,
    Conflict,
    FalajError,
    InvalidInput,
    NotFound,
    Unavailable,
)
from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger
from falaj.serving import tables
from falaj.serving.errors import ReleaseNotLoaded, ReleaseRefused
from falaj.serving.model import (
    Activation,
    Approved,
    Endpoint,
    EndpointSummary,
    PinnedMember,
    Release,
    ReleaseState,
    ReleaseStatus,
    RequestField,
    Variant,
)
from falaj.serving.names import table_of
from falaj.serving.subjects import subject_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.serving.compiler import PlanCompiler
    from falaj.serving.ports import ApprovedModels, FeatureReaders
    from falaj.serving.routing import RoutingTable

_POLL_SECONDS = 0.01


def release_ref(endpoint: str, release: str) -> AssetRef:
    """The asset of a release."""
    return AssetRef("release", f"{endpoint}/{release}")


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
        self._features = features
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
        release = self._made(call, endpoint, approved)
        self._compiler.compile(release)  # verifies the bundle; refuses what cannot be served
        tables.keep_release(
            call.connection,
            id=release.id,
            endpoint=name,
            document=release.model_dump(mode="json"),
            state=ReleaseState.DEPLOYED,
            created_at=call.now,
        )
        self._record(call, release)
        self._table.write(release)
        tables.at_commit(call.connection, lambda: self._table.announce(name, release.id))
        call.note(release=release.id, model=release.model, bundle=approved.bundle)
        call.emit("release.deployed", endpoint=name, release=release.id, model=release.model)
        return release

    def activate(
        self, call: Call, name: str, release_id: str, *, wait_seconds: float = 15.0
    ) -> Release:
        """Let a release serve: first every worker prepares it, then all switch at once.

        When the call has returned, every later request is answered by this release.

        Raises:
            NotFound: no such endpoint or release.
            Conflict: the model version is not approved any more, or the release is retired.
            ReleaseRefused: a worker cannot load it; nothing was switched.
            Unavailable: a worker did not prepare it in time; nothing was switched.
        """
        row = _found(tables.endpoint_row(call.connection, name, locked=True), name)
        release = self._release(call.connection, name, release_id)
        for variant in release.variants:
            for member in variant.pinned:
                self._approved.approved(call.connection, member.model, member.version)
        return self._switched(call, row, release, wait_seconds)

    def rollback(self, call: Call, name: str, *, wait_seconds: float = 15.0) -> Release:
        """Let the release that served before this one serve again.

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
        for variant in release.variants:
            for member in variant.pinned:
                self._approved.may_return(call.connection, member.model, member.version)
        return self._switched(call, row, release, wait_seconds)

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

    def deactivate(self, call: Call, name: str) -> None:
        """Let an endpoint serve nothing; its releases stay."""
        row = _found(tables.endpoint_row(call.connection, name, locked=True), name)
        if row.active is None:
            return
        tables.switch(call.connection, name, None, row.active, at=call.now, by=call.principal.id)
        tables.at_commit(call.connection, lambda: self._table.flip(name, None))
        call.emit("endpoint.deactivated", endpoint=name, previous=row.active)

    def withdraw(self, call: Call, revoked: Callable[[str], bool]) -> list[str]:
        """Deactivate endpoints whose release has a revoked bundle; fulfils ``models.ports``."""
        stopped = []
        for row in tables.endpoint_rows(call.connection, locked=True):
            release = self._active(call.connection, row)
            if release is None:
                continue
            pinned = [member for variant in release.variants for member in variant.pinned]
            if any(revoked(member.bundle) for member in pinned):
                self.deactivate(call, row.name)
                stopped.append(str(row.name))
        return stopped

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
        return mended

    def apart(self, connection: Connection) -> bool:
        """True if the routing table does not say what the database says; only reads."""
        wanted = {row.name: row.active for row in tables.endpoint_rows(connection) if row.active}
        return wanted != self._table.active()[1]

    def _sound(self, connection: Connection, name: str, release_id: str) -> str | None:
        """The id of a release that may be switched to, written to the table; None if it may not."""
        try:
            release = self._release(connection, name, release_id)
            for variant in release.variants:
                for member in variant.pinned:
                    self._approved.may_return(connection, member.model, member.version)
            self._compiler.compile(release)  # verifies the bundle
        except FalajError as error:
            logger(__name__).error(
                "release does not become active",
                endpoint=name,
                release=release_id,
                error=str(error),
            )
            return None
        self._table.write(release)
        return release.id

    # -- inside ---------------------------------------------------------------------

    def _made(self, call: Call, endpoint: Endpoint, approved: Approved) -> Release:
        service = endpoint.feature_service or approved.feature_service
        document: dict[str, Any] | None = None
        fields: tuple[RequestField, ...] = ()
        if service is not None:
            if self._features is None:
                raise InvalidInput(
                    f"{endpoint.name!r} needs the feature service {service!r}, and there is no "
                    "feature store here.",
                    hint="Set `online` in the settings.",
                )
            document, fields = self._features.describe(call.connection, service)
        named = {item.name for item in fields}
        fields += tuple(item for item in endpoint.fields if item.name not in named)
        subject, subject_kind = subject_of(endpoint, document, fields)
        resource = self._catalog.load(call.connection, endpoint.ref)
        return Release(
            id=new_id("release"),
            endpoint=endpoint.name,
            variants=(self._variant(call, endpoint, approved),),
            feature_service=service,
            features=document,
            fields=fields,
            unit=endpoint.unit,
            limits=endpoint.limits,
            durability=endpoint.durability,
            missing=endpoint.missing,
            subject=subject,
            subject_kind=subject_kind,
            attributes=dict(resource.attributes),
            change=approved.change,
            created_at=call.now,
            created_by=call.principal.id,
        )

    def _variant(self, call: Call, endpoint: Endpoint, approved: Approved) -> Variant:
        """The approved version alone, or with the versions in production of all members."""
        composition = endpoint.composition
        if composition is None:
            return approved.variant()
        pinned = []
        for member in composition.members:
            found = approved
            if member.model != endpoint.model:
                found = self._approved.approved(call.connection, member.model, None)
            pinned.append(
                PinnedMember(
                    model=member.model,
                    version=found.version,
                    bundle=found.bundle,
                    weight=member.weight,
                    gives=member.gives,
                )
            )
        return Variant(
            model=approved.model,
            version=approved.version,
            bundle=approved.bundle,
            combine=composition.combine,
            members=tuple(pinned),
        )

    def _record(self, call: Call, release: Release) -> None:
        ref = release_ref(release.endpoint, release.id)
        self._catalog.record(
            call,
            ref,
            attributes={
                "endpoint": release.endpoint,
                "model": release.model,
                "bundle": release.variants[0].bundle,
                "change": release.change,
            },
        )
        for label in {one.label for variant in release.variants for one in variant.pinned}:
            source = AssetRef("model_version", label)
            if not self._catalog.exists(call.connection, source):
                self._catalog.record(call, source)
            self._catalog.link(call, source, ref, Relation.SERVES)
        target = AssetRef("endpoint", release.endpoint)
        if not self._catalog.exists(call.connection, target):
            self._catalog.record(call, target)
        self._catalog.link(call, ref, target, Relation.SERVES)
        self._record_log(call, release, target)

    def _record_log(self, call: Call, release: Release, endpoint: AssetRef) -> None:
        """The lake table of the predictions, as secret as the endpoint that makes them, and at
        least personal if they are about persons."""
        name, known = release.endpoint, self._catalog.get(call.connection, endpoint)
        secret = known.classification
        if release.subject is not None and secret is not Classification.SENSITIVE:
            secret = Classification.PERSONAL
        log = AssetRef("table", table_of(name))
        self._catalog.record(
            call,
            log,
            description=f"What the endpoint {name} predicted.",
            owner=known.owner,
            classification=secret,
        )
        self._catalog.link(call, endpoint, log, Relation.PREDICTED)

    def _switched(self, call: Call, row: Any, release: Release, wait_seconds: float) -> Release:
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
        tables.switch(
            call.connection, name, release.id, row.active, at=call.now, by=call.principal.id
        )
        tables.at_commit(call.connection, lambda: self._table.flip(name, release.id))
        ref = AssetRef("endpoint", name)
        self._catalog.record(call, ref, attributes={"release": release.id})
        call.note(release=release.id, previous=row.active)
        call.emit("release.activated", endpoint=name, release=release.id, previous=row.active)
        return release

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
        retired = {
            row.id
            for row in tables.release_rows(connection, name)
            if row.state == ReleaseState.RETIRED
        }
        pile: list[str] = []
        for row in reversed(tables.activation_rows(connection, name)):
            if row.release is None or row.release in retired:
                continue
            if row.release in pile:
                del pile[pile.index(row.release) + 1 :]
            else:
                pile.append(row.release)
        active = tables.endpoint_row(connection, name).active
        if active is None:
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


def _found(row: Any, name: str) -> Any:
    if row is None:
        raise NotFound(
            f"There is no endpoint {name!r}.",
            hint="Declare it and run `falaj apply`; `falaj endpoints list` shows them.",
        )
    return row
