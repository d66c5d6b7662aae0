"""Versions of views that live side by side.

Every applied version of a view is live until it is retired: pushes, streams and
materialisation keep its online rows up to date, so that a release which was compiled from
it goes on reading current values. Versions whose stored rows are the same share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import event, func, insert, select
from sqlalchemy.engine import Connection

from falaj.catalog.definitions import Definition, Definitions
from falaj.features.model import Entity, FeatureService, FeatureView, OnDemandFeatures
from falaj.features.plan import DefinitionAccess
from falaj.features.tables import retirements
from falaj.features.views import ViewPlan
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.clock import monotonic
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.jobs import JobRun

if TYPE_CHECKING:
    from falaj.features.ports import OnlineStore
    from falaj.kernel.calls import Calls
    from falaj.kernel.database import Database

_ROWS_AT_ONCE = 5_000
_STAMP_SECONDS = 0.05


class State(StrEnum):
    """What becomes of a version of a view."""

    CURRENT = "current"
    LIVE = "live"
    """An earlier version that is kept up to date."""
    RETIRED = "retired"


@dataclass(frozen=True)
class ViewVersion:
    """One applied version of a view."""

    view: FeatureView
    version: int
    state: State


class AppliedViews(DefinitionAccess, Protocol):
    """The applied definitions with all versions of views."""

    def view_versions(self) -> Sequence[ViewVersion]:
        """Every version of every view, by name, the newest first."""
        ...


def live_plans(definitions: AppliedViews, *, name: str | None = None) -> Iterator[ViewPlan]:
    """The compiled live versions of views, one for each set of online rows, newest first.

    Args:
        definitions: where to look.
        name: of one view; of all, if None.

    Raises:
        NotFound: the entity of one of them is not applied.
    """
    entities: dict[str, Entity] = {}
    seen: set[bytes] = set()
    for one in definitions.view_versions():
        if one.state is State.RETIRED or name not in (None, one.view.name):
            continue
        if one.view.entity not in entities:
            entities[one.view.entity] = _entity(definitions, one.view)
        plan = ViewPlan.of(one.view, entities[one.view.entity])
        if plan.storage_id not in seen:
            seen.add(plan.storage_id)
            yield plan


def _entity(definitions: DefinitionAccess, view: FeatureView) -> Entity:
    found = definitions.get(Entity.kind, view.entity)
    if not isinstance(found, Entity):
        raise InvalidInput(f"{view.entity!r} is not an entity.")
    return found


class AppliedDefinitions:
    """The definitions of a platform, each read in a short transaction of its own."""

    def __init__(self, database: Database, definitions: Definitions) -> None:
        self._database = database
        self._definitions = definitions
        self._views: tuple[Any, tuple[ViewVersion, ...]] = (None, ())
        self._n_commits = 0
        self._stamped: tuple[int, float, object] = (-1, 0.0, None)

        @event.listens_for(database.engine, "commit")
        def _committed(connection: Connection) -> None:
            if not connection.get_execution_options().get("falaj_read_only", False):
                self._n_commits += 1

    def get(self, kind: str, name: str) -> Definition:
        """The current definition; raises NotFound."""
        with self._database.reading() as connection:
            return self._definitions.definition(connection, kind, name)

    def version(self, kind: str, name: str, version: int) -> Definition:
        """One version of a definition; raises NotFound."""
        with self._database.reading() as connection:
            return self._definitions.definition(connection, kind, name, version)

    def all(self, kind: str) -> list[Definition]:
        """Every current definition of a kind."""
        with self._database.reading() as connection:
            return [
                self._definitions.parsed(one)
                for one in self._definitions.listed(connection, kind=kind)
            ]

    def view_versions(self) -> Sequence[ViewVersion]:
        """Every version of every view, by name, the newest first.

        They are read again only after something was applied or retired.
        """
        with self._database.reading() as connection:
            stamp = self._stamp(connection)
            if self._views[0] != stamp:
                self._views = (stamp, tuple(view_versions(connection, self._definitions)))
            return self._views[1]

    def stamp(self) -> object:
        """Something that differs once anything was applied or retired; quick.

        What this process commits is seen at once, what others do within a twentieth of a
        second.
        """
        n_commits, until, known = self._stamped
        if n_commits == self._n_commits and monotonic() < until:
            return known
        n_commits = self._n_commits
        with self._database.reading() as connection:
            stamp = self._stamp(connection)
        self._stamped = (n_commits, monotonic() + _STAMP_SECONDS, stamp)
        return stamp

    def _stamp(self, connection: Connection) -> object:
        count = select(func.count()).select_from(retirements)
        return self._definitions.stamp(connection), connection.execute(count).scalar_one()


def view_versions(connection: Connection, definitions: Definitions) -> Iterator[ViewVersion]:
    """Every version of every view, by name, the newest first.

    Raises:
        InvalidInput: a version that is not retired cannot be read any more.
    """
    retired = {(row.view, row.version) for row in connection.execute(select(retirements))}
    last = ""
    for kept in definitions.every(connection, FeatureView.kind):
        state = State.CURRENT if kept.name != last else State.LIVE
        last = kept.name
        if (kept.name, kept.version) in retired:
            state = State.RETIRED
        try:
            view = definitions.parsed(kept)
        except InvalidInput as error:
            if state is State.RETIRED:
                continue
            raise InvalidInput(
                f"Version {kept.version} of the view {kept.name!r} cannot be read any more: "
                f"{error.message}",
                hint=f"Retire it: `falaj features retire {kept.name} --version {kept.version}`.",
            ) from error
        if isinstance(view, FeatureView):
            yield ViewVersion(view, kept.version, state)


class Retirement:
    """Ends the life of versions of views.

    Args:
        definitions: the applied ones.
        readers: the names of what still reads the online rows of a version in production
            (releases of endpoints); nothing, unless it is told.
    """

    def __init__(
        self,
        definitions: Definitions,
        readers: Callable[[Connection, ViewPlan], Sequence[str]] = lambda _c, _p: (),
    ) -> None:
        self._definitions = definitions
        self._readers = readers

    def retire(self, call: Call, name: str, version: int) -> dict[str, Any]:
        """Let a version be kept up to date no longer.

        Returns:
            The arguments of the job ``features.forget`` that removes its online rows, unless a live
            version has the same.

        Raises:
            NotFound: there is no such version.
            Conflict: it is the current one, retired already, or something takes it.
        """
        connection = call.connection
        self._definitions.alone(connection)
        kept = self._definitions.version(connection, FeatureView.kind, name, version)
        states = {
            one.version: one for one in view_versions(connection, self._definitions)
            if one.view.name == name
        }  # fmt: skip
        found = states.get(kept.version)
        if found is None or found.state is State.RETIRED:
            raise Conflict(f"Version {version} of the view {name!r} is retired already.")
        if found.state is State.CURRENT:
            raise Conflict(
                f"Version {version} is the current one of the view {name!r}.",
                hint="Change the view first; then this version can be retired.",
            )
        self._refuse_if_taken(connection, name, version)
        plan = self._plan(connection, found.view)
        others = [one.view for number, one in states.items()
                  if number != version and one.state is not State.RETIRED]  # fmt: skip
        shared = any(self._plan(connection, one).storage_id == plan.storage_id for one in others)
        readers = [] if shared else list(self._readers(connection, plan))
        if readers:
            raise Conflict(
                f"Version {version} of the view {name!r} is read by {', '.join(readers)}.",
                hint="Deploy and activate a release that takes another version first.",
            )
        connection.execute(
            insert(retirements).values(
                view=name, version=version, at=call.now, by=call.principal.id, call_id=call.id
            )
        )
        call.note(view=name, version=version, rows_are_shared=shared)
        call.emit("features.retired", view=name, version=version)
        return {"view": name, "version": version, "storage": plan.storage_id.hex()}

    def _plan(self, connection: Connection, view: FeatureView) -> ViewPlan:
        entity = self._definitions.definition(connection, Entity.kind, view.entity)
        if not isinstance(entity, Entity):
            raise InvalidInput(f"{view.entity!r} is not an entity.")
        return ViewPlan.of(view, entity)

    def _refuse_if_taken(self, connection: Connection, name: str, version: int) -> None:
        for kind in (FeatureService.kind, OnDemandFeatures.kind):
            for kept in self._definitions.listed(connection, kind=kind):
                one = self._definitions.parsed(kept)
                if isinstance(one, FeatureService | OnDemandFeatures) and (
                    one.versions().get(name) == version
                ):
                    raise Conflict(
                        f"Version {version} of the view {name!r} is taken by the "
                        f"{kind.replace('_', ' ')} {one.name!r}.",
                        hint=f"Let it take another version than {name}@{version}, and apply.",
                    )


def refuse_retired(connection: Connection, definition: FeatureService | OnDemandFeatures) -> None:
    """Refuse a definition that names a retired version of a view; raises InvalidInput."""
    for name, version in definition.versions().items():
        known = select(retirements).where(
            retirements.c.view == name, retirements.c.version == version
        )
        if version is not None and connection.execute(known).first() is not None:
            raise InvalidInput(
                f"{definition.name!r} takes version {version} of the view {name!r}, which is "
                "retired.",
                hint=f"`falaj features list --kind {FeatureView.kind}` shows the live versions.",
            )


class Forgetting:
    """Handler of ``features.forget``: removes the online rows of a retired version, in batches.

    Done twice, the second time removes nothing. If rows of the same meaning became live
    again meanwhile, they stay.

    Args:
        definitions: tells what is live.
        online: where the rows are.
        calls: opens the transaction that records it.
    """

    def __init__(self, definitions: AppliedViews, online: OnlineStore, calls: Calls) -> None:
        self._definitions = definitions
        self._online = online
        self._calls = calls

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Forget ``arguments["storage"]`` of ``arguments["view"]``, ``["version"]``."""
        name, storage = str(arguments["view"]), bytes.fromhex(arguments["storage"])
        n_rows = 0
        if all(plan.storage_id != storage for plan in live_plans(self._definitions)):
            keys = list(self._online.keys(storage))
            for start in range(0, len(keys), _ROWS_AT_ONCE):
                n_rows += self._online.forget(keys[start : start + _ROWS_AT_ONCE])
                run.report(n_rows / len(keys), f"{n_rows} rows of {name} forgotten")
        result = {"view": name, "version": int(arguments["version"]), "n_rows": n_rows}
        with self._calls.opened(
            "features.forget", run.submitted_by, resource=str(AssetRef(FeatureView.kind, name)),
            arguments=dict(arguments),
        ) as call:  # fmt: skip
            call.note(**result)
            call.emit("features.forgotten", **result)
        return result
