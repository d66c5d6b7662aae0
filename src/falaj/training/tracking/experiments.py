"""Experiments: names under which runs are gathered, each in its workspace.

All functions work in the caller's transaction. An experiment that is deleted takes its runs
with it; both can be restored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from falaj.kernel.call import AssetRef
from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from falaj.kernel.ids import is_id, new_id
from falaj.kernel.statements import Statement, marks
from falaj.training.model import DEFAULT_WORKSPACE, Experiment
from falaj.training.tracking.texts import check_key, check_text, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call

LONGEST_NAME = 500
LONGEST_TAG = 20_000
ANY_WORKSPACE = None
COLUMNS = "id, workspace, name, created_at, created_by, updated_at, deleted_at"

_BY_ID = Statement(f"SELECT {COLUMNS} FROM experiments WHERE id = ?")
_BY_NAME = Statement(f"SELECT {COLUMNS} FROM experiments WHERE workspace = ? AND name = ?")
_ALL = Statement(f"SELECT {COLUMNS} FROM experiments WHERE deleted_at IS NULL ORDER BY name, id")
_COUNTS = Statement(
    "SELECT experiment_id, COUNT(*) FROM runs WHERE deleted_at IS NULL GROUP BY experiment_id"
)
_INSERT = Statement(
    "INSERT INTO experiments (id, workspace, name, created_at, created_by, updated_at)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (workspace, name) DO NOTHING"
)
_RENAME = Statement("UPDATE experiments SET name = ?, updated_at = ? WHERE id = ?")
_TOUCH = Statement("UPDATE experiments SET updated_at = ? WHERE id = ?")
_DELETE = Statement("UPDATE experiments SET deleted_at = ?, updated_at = ? WHERE id = ?")
_DELETE_RUNS = Statement(
    "UPDATE runs SET deleted_at = ? WHERE experiment_id = ? AND deleted_at IS NULL"
)
_RESTORE = Statement("UPDATE experiments SET deleted_at = NULL, updated_at = ? WHERE id = ?")
_RESTORE_RUNS = Statement(
    "UPDATE runs SET deleted_at = NULL WHERE experiment_id = ? AND deleted_at = ?"
)
_SET_TAG = Statement(
    "INSERT INTO experiment_tags (experiment_id, key, value) VALUES (?, ?, ?)"
    " ON CONFLICT (experiment_id, key) DO UPDATE SET value = excluded.value"
)
_REMOVE_TAG = Statement("DELETE FROM experiment_tags WHERE experiment_id = ? AND key = ?")


class Experiments:
    """Experiments in the metadata database; each is an asset of the catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def create(
        self,
        call: Call,
        name: str,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        tags: Mapping[str, str] | None = None,
    ) -> Experiment:
        """A new experiment.

        Raises:
            AlreadyExists: the workspace has one of that name, or had and deleted it.
            InvalidInput: the name or a tag is not fit.
        """
        made = self._created(call, name, workspace)
        if made is None:
            kept = self.named(call.connection, name, workspace)
            where = ", but it is deleted" if kept.deleted_at is not None else ""
            raise AlreadyExists(
                f"There is an experiment {name!r} already{where}.",
                hint="Restore it, or use another name." if where else "Use it, or another name.",
            )
        if tags:
            self._set_tags(call, made.id, tags)
        return self.get(call.connection, made.id)

    def ensured(self, call: Call, name: str, workspace: str = DEFAULT_WORKSPACE) -> Experiment:
        """The experiment of a name or an id, made if no experiment has that name.

        Without tags and counts.

        Raises:
            NotFound: there is none of that id in the workspace.
            Conflict: it is deleted.
        """
        found = self.found(call.connection, name, workspace)
        if found is None:
            if is_id(name, "exp"):
                self.missing(name)
            found = self._created(call, name, workspace) or self.found(
                call.connection, name, workspace
            )
        if found is None or found.deleted_at is not None:
            raise Conflict(
                f"The experiment {name!r} is deleted.", hint="Restore it, or use another one."
            )
        return found

    def found(self, connection: Connection, name: str, workspace: str) -> Experiment | None:
        """The experiment of a name or an id, without tags, or None."""
        if is_id(name, "exp"):
            row = _BY_ID.first(connection, (name,))
            row = row if row is not None and row[1] == workspace else None
        else:
            row = _BY_NAME.first(connection, (workspace, name)) if plain(name) else None
        return None if row is None else experiment_of(row)

    def get(
        self, connection: Connection, experiment: str, workspace: str | None = ANY_WORKSPACE
    ) -> Experiment:
        """One experiment by its id; raises NotFound, also if it is of another workspace."""
        row = _BY_ID.first(connection, (experiment,)) if plain(experiment) else None
        if row is None or workspace not in (ANY_WORKSPACE, row[1]):
            self.missing(experiment)
        return self.complete(connection, [row])[0]

    def named(
        self, connection: Connection, name: str, workspace: str = DEFAULT_WORKSPACE
    ) -> Experiment:
        """One experiment by its name, deleted or not; raises NotFound."""
        row = _BY_NAME.first(connection, (workspace, name)) if plain(name) else None
        if row is None:
            self.missing(name)
        return self.complete(connection, [row])[0]

    def listed(self, connection: Connection) -> list[Experiment]:
        """All experiments by name that are not deleted, with the number of their runs."""
        counts = dict(_COUNTS.all(connection))
        found = self.complete(connection, _ALL.all(connection))
        return [one.model_copy(update={"n_runs": counts.get(one.id, 0)}) for one in found]

    def rename(self, call: Call, experiment: str, name: str) -> Experiment:
        """Give it another name.

        Raises:
            NotFound, Conflict: there is none, or it is deleted.
            AlreadyExists: its workspace has one of that name.
        """
        kept = self._active(call.connection, experiment)
        _check_name(name)
        if kept.name != name:
            if self.found(call.connection, name, kept.workspace) is not None:
                raise AlreadyExists(
                    f"There is an experiment {name!r} already.", hint="Use another name."
                )
            _RENAME.run(call.connection, (name, microseconds(call.now), experiment))
            self._describe(call, experiment, name, kept.workspace)
        return self.get(call.connection, experiment)

    def delete(self, call: Call, experiment: str) -> None:
        """Delete it with its runs; what is deleted already stays as it is.

        Raises:
            NotFound: there is none.
        """
        if self.get(call.connection, experiment).deleted_at is not None:
            return
        at = microseconds(call.now)
        _DELETE.run(call.connection, (at, at, experiment))
        _DELETE_RUNS.run(call.connection, (at, experiment))
        call.emit("experiment.deleted", experiment=experiment)

    def restore(self, call: Call, experiment: str) -> None:
        """Undo ``delete``, with the runs that were deleted by it.

        Raises:
            NotFound: there is none.
        """
        deleted_at = self.get(call.connection, experiment).deleted_at
        if deleted_at is None:
            return
        _RESTORE.run(call.connection, (microseconds(call.now), experiment))
        _RESTORE_RUNS.run(call.connection, (experiment, microseconds(deleted_at)))
        call.emit("experiment.restored", experiment=experiment)

    def tag(self, call: Call, experiment: str, tags: Mapping[str, str]) -> None:
        """Set tags; an older value of the same key is replaced.

        Raises:
            NotFound, Conflict: there is none, or it is deleted.
            InvalidInput: a key or a value is not fit.
        """
        self._active(call.connection, experiment)
        self._set_tags(call, experiment, tags)
        _TOUCH.run(call.connection, (microseconds(call.now), experiment))

    def untag(self, call: Call, experiment: str, key: str) -> None:
        """Take a tag away.

        Raises:
            NotFound, Conflict: there is no such experiment or tag, or it is deleted.
        """
        self._active(call.connection, experiment)
        if not plain(key) or not _REMOVE_TAG.run(call.connection, (experiment, key)):
            raise NotFound(f"The experiment {experiment} has no tag {key[:100]!r}.")
        _TOUCH.run(call.connection, (microseconds(call.now), experiment))

    def complete(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Experiment]:
        """Experiments from their rows (``COLUMNS``), with their tags."""
        tags: dict[str, dict[str, str]] = {row[0]: {} for row in rows}
        ids = list(tags)
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            query = (
                "SELECT experiment_id, key, value FROM experiment_tags"
                f" WHERE experiment_id IN ({marks(len(some))})"
            )
            for owner, key, value in Statement(query).all(connection, some):
                tags[owner][key] = value
        return [experiment_of(row).model_copy(update={"tags": tags[row[0]]}) for row in rows]

    @staticmethod
    def missing(experiment: str) -> NoReturn:
        """Raise that there is no such experiment (or none that may be seen)."""
        raise NotFound(
            f"There is no experiment {experiment[:200]!r}.",
            hint="`falaj runs experiments` shows all.",
        )

    def _created(self, call: Call, name: str, workspace: str) -> Experiment | None:
        """The new experiment, or None if there is one of that name."""
        _check_name(name)
        experiment, at = new_id("exp"), microseconds(call.now)
        by = call.principal.id
        values = (experiment, workspace, name, at, by, at)
        if _INSERT.run(call.connection, values) != 1:
            return None
        self._catalog.record_new(
            call,
            AssetRef("experiment", experiment),
            description=name,
            attributes={"name": name, "workspace": workspace},
        )
        return experiment_of((experiment, workspace, name, at, by, at, None))

    def _describe(self, call: Call, experiment: str, name: str, workspace: str) -> None:
        self._catalog.record(
            call,
            AssetRef("experiment", experiment),
            description=name,
            attributes={"name": name, "workspace": workspace},
        )

    def _active(self, connection: Connection, experiment: str) -> Experiment:
        found = self.get(connection, experiment)
        if found.deleted_at is not None:
            raise Conflict(
                f"The experiment {experiment} is deleted.", hint="Restore it, then repeat the call."
            )
        return found

    @staticmethod
    def _set_tags(call: Call, experiment: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            check_key("tag", key)
            check_text("tag", key, value, LONGEST_TAG)
        _SET_TAG.many(call.connection, [(experiment, key, value) for key, value in tags.items()])


def experiment_of(row: tuple[Any, ...]) -> Experiment:
    """An experiment from a row (``COLUMNS``), without tags."""
    experiment, workspace, name, created_at, created_by, updated_at, deleted_at = row
    return Experiment(
        id=experiment,
        workspace=workspace,
        name=name,
        created_at=from_microseconds(created_at),
        created_by=created_by,
        updated_at=None if updated_at is None else from_microseconds(updated_at),
        deleted_at=None if deleted_at is None else from_microseconds(deleted_at),
    )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > LONGEST_NAME or not plain(name):
        raise InvalidInput(
            f"{name[:100]!r} cannot be the name of an experiment.",
            hint=f"Use 1 to {LONGEST_NAME} characters of plain text.",
        )
    if is_id(name, "exp"):
        raise InvalidInput(
            f"{name!r} has the form of an experiment's id.", hint="Use another name."
        )
