"""Aliases: names that people give to versions, and who moved which of them where, when and why.

Nothing that Falaj serves follows an alias: endpoints follow the stage ``production``. But
programs elsewhere load models by alias, so the aliases that a model's policy names as
guarded move as stages do: on gates that passed, with another person's approval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.models.model import AliasMove, GateReport, ModelVersion, Stage
from falaj.models.registry import version_ref
from falaj.models.tables import alias_move_rows, alias_rows

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.models.promotion import Promotions
    from falaj.models.registry import Registry
    from falaj.operations.changes import Changes
    from falaj.operations.model import Change

ALIAS_CHANGE = "model_alias"
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)


class AliasGuarded(Conflict):
    """The alias moves with another person's approval alone."""

    code = "alias-guarded"


class AliasUnjudged(Conflict):
    """The alias is guarded, but was set before it was, so nobody has judged where it points."""

    code = "alias-unjudged"


class AliasWaits(Conflict):
    """The alias was asked for, and moves when another person approves."""

    code = "alias-waits"


class Aliases:
    """Sets, moves and removes aliases; each move is one row that is never changed."""

    def __init__(self, registry: Registry, promotions: Promotions, changes: Changes) -> None:
        self._registry = registry
        self._promotions = promotions
        self._changes = changes

    def guarded(self, connection: Connection, model: str, alias: str) -> bool:
        """True if the model's policy guards the alias; without a policy none is guarded.

        A version of a model without a policy passes no gate, so nothing can serve it.
        """
        try:
            policy = self._registry.policy(connection, model)
        except NotFound:
            return False
        return alias.casefold() in {one.casefold() for one in policy.guarded_aliases}

    def set(self, call: Call, model: str, alias: str, version: int, reason: str = "") -> None:
        """Let an alias point at a version, in the place of the one that it points at.

        Raises:
            NotFound: there is no such version.
            InvalidInput: the name of the alias has a meaning of its own.
            AliasGuarded: it moves with an approval alone.
        """
        self._unguarded(call, model, alias)
        self._moved(call, model, alias, version, reason=reason)

    def remove(self, call: Call, model: str, alias: str, reason: str = "") -> None:
        """Take an alias away; one that is not there is no error.

        Raises:
            NotFound: there is no such model.
            AliasGuarded: it is removed with an approval alone.
        """
        self._unguarded(call, model, alias)
        self._moved(call, model, alias, None, reason=reason)

    def propose(
        self, call: Call, model: str, alias: str, version: int | None, reason: str
    ) -> Change:
        """Open the change that, approved, moves an alias (or removes it, without a version).

        Raises:
            NotFound: there is no such version.
            Conflict: it points there already, and was judged.
            GatesNotPassed, NotAdopted: the version may not take the stage production either.
        """
        self._registry.model(call.connection, model)
        _check_name(alias)
        now = self._at(call.connection, model, alias)
        if now == version and not self._unjudged(call.connection, model, alias):
            raise Conflict(
                f"The alias {alias!r} of {model} {_stands(version)} already.",
                hint=f"`falaj models history {model}` shows since when.",
            )
        found, report = self._judged(call, model, version)
        evidence: dict[str, Any] = {"alias": alias, "from_version": now}
        if found is not None:
            evidence |= self._promotions.evidence(call, found, report, Stage.PRODUCTION)
        return self._changes.open(
            call,
            kind=ALIAS_CHANGE,
            subject=version_ref(model, version or now or 0),
            title=f"{model}: alias {alias} to {version or 'nothing'}",
            reason=reason,
            evidence=evidence,
            payload={"model": model, "alias": alias, "version": version},
        )

    def apply(self, call: Call, change: Change) -> None:
        """Move the alias of an approved change.

        Raises:
            NotFound, GatesNotPassed: what held when it was asked holds no more.
        """
        model, version = change.payload["model"], change.payload["version"]
        _, report = self._judged(call, model, version)
        self._moved(
            call,
            model,
            change.payload["alias"],
            version,
            reason=change.reason,
            change=change,
            gate_report=report.id if report else None,
        )

    def resolve(self, connection: Connection, model: str, alias: str) -> ModelVersion:
        """The version that an alias points at.

        Raises:
            NotFound: there is no such model or alias.
            AliasUnjudged: it became guarded after it was set, and no change has moved it since.
        """
        self._registry.model(connection, model)
        version = self._at(connection, model, alias)
        if version is None:
            raise NotFound(
                f"The model {model!r} has no alias {alias!r}.",
                hint=f"`falaj models show {model}` lists them.",
            )
        if self._unjudged(connection, model, alias):
            raise AliasUnjudged(
                f"The alias {alias!r} of {model} was set to version {version} before the model's"
                " policy guarded it, so nobody has judged it.",
                hint=f"Ask for it: `falaj models propose-alias {model} --alias {alias} --version"
                f" {version} --reason …`; or load the version by its number.",
            )
        return self._registry.version(connection, model, version)

    def _unjudged(self, connection: Connection, model: str, alias: str) -> bool:
        """True if an alias is guarded and stands where no approved change has put it."""
        if self._at(connection, model, alias) is None:
            return False
        table = alias_move_rows
        change = connection.execute(
            select(table.c.change)
            .where(table.c.model == model, table.c.alias == alias)
            .order_by(table.c.at.desc(), table.c.id.desc())
            .limit(1)
        ).scalar()
        return change is None and self.guarded(connection, model, alias)

    def check_free(self, call: Call, version: ModelVersion) -> None:
        """Return unless a guarded alias points at a version; raises AliasGuarded."""
        for alias in version.aliases:
            if self.guarded(call.connection, version.model, alias):
                raise self._refusal(version.model, alias)

    def freed(self, call: Call, version: ModelVersion, reason: str) -> None:
        """Take away all aliases of a version."""
        for alias in version.aliases:
            self._moved(call, version.model, alias, None, reason=reason)

    def _unguarded(self, call: Call, model: str, alias: str) -> None:
        _check_name(alias)
        if self.guarded(call.connection, model, alias):
            raise self._refusal(model, alias)

    @staticmethod
    def _refusal(model: str, alias: str) -> AliasGuarded:
        return AliasGuarded(
            f"The alias {alias!r} of {model} moves with another person's approval.",
            hint=f"Ask for it: `falaj models propose-alias {model} --alias {alias} …`.",
        )

    def _judged(
        self, call: Call, model: str, version: int | None
    ) -> tuple[ModelVersion | None, GateReport | None]:
        """The version that a guarded alias may point at, with the report that permits it."""
        if version is None:
            return None, None
        found = self._registry.version(call.connection, model, version)
        if found.stage is Stage.PRODUCTION:  # it was judged and approved when it came there
            self._registry.trusted(call.connection, found)
            return found, self._registry.report(call.connection, model, version)
        return found, self._promotions.permitted(call, found, Stage.PRODUCTION)

    @staticmethod
    def _at(connection: Connection, model: str, alias: str) -> int | None:
        found: int | None = connection.execute(
            select(alias_rows.c.version).where(
                alias_rows.c.model == model, alias_rows.c.alias == alias
            )
        ).scalar()
        return found

    def _moved(
        self,
        call: Call,
        model: str,
        alias: str,
        version: int | None,
        *,
        reason: str,
        change: Change | None = None,
        gate_report: str | None = None,
    ) -> None:
        """Move the alias in one step and keep who did it; nothing if it stands there already."""
        connection = call.connection
        self._registry.locked(connection, model)
        if version is not None:
            self._registry.version(connection, model, version)
        before = self._at(connection, model, alias)
        judged_now = change is not None and self._unjudged(connection, model, alias)
        if before == version and not judged_now:
            return
        here = (alias_rows.c.model == model, alias_rows.c.alias == alias)
        if version is None:
            connection.execute(delete(alias_rows).where(*here))
        elif before is None:
            connection.execute(insert(alias_rows).values(model=model, alias=alias, version=version))
        else:
            connection.execute(update(alias_rows).where(*here).values(version=version))
        asked_by = change.requested_by if change else call.principal.id
        move = AliasMove(
            model=model,
            alias=alias,
            from_version=before,
            to_version=version,
            at=call.now,
            asked_by=asked_by,
            approved_by=call.principal.id if change else None,
            reason=reason,
            change=change.id if change else None,
            gate_report=gate_report,
        )
        connection.execute(
            insert(alias_move_rows).values(id=new_id("aliasmove"), **move.model_dump())
        )
        call.emit("model.alias_moved", model=model, alias=alias, version=version, previous=before)


def alias_moves(
    connection: Connection, model: str, *, at: datetime | None = None
) -> Sequence[AliasMove]:
    """All moves of a model's aliases, the newest first; only those until ``at`` if given."""
    table = alias_move_rows
    query = (
        select(table).where(table.c.model == model).order_by(table.c.at.desc(), table.c.id.desc())
    )
    if at is not None:
        query = query.where(table.c.at <= at)
    return [
        AliasMove(**{name: getattr(row, name) for name in AliasMove.model_fields})
        for row in connection.execute(query)
    ]


def _check_name(alias: str) -> None:
    if _RESERVED.fullmatch(alias):
        raise InvalidInput(
            f"{alias!r} cannot be an alias: it names the latest version, or a version by number.",
            hint="Choose another word.",
        )


def _stands(version: int | None) -> str:
    return "stands nowhere" if version is None else f"points at version {version}"
