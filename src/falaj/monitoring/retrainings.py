"""Retrainings in the metadata database: begun once for a cause, told step by step, ended.

All functions work in the transaction of their call.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.monitoring.retrainingtables import cause_rows, retraining_rows
from falaj.monitoring.retrainingwords import (
    CHOICE,
    Cause,
    Retraining,
    RetrainingRun,
    RetrainingState,
    Told,
)
from falaj.operations.model import Severity

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.operations.alerts import Alerts

RUN = "retraining_run"
"""The kind of asset that one retraining is."""


class Stale(Conflict):
    """A retraining has moved on since it was read: another worker was quicker."""

    code = "retraining-moved"
    retryable = True


def retraining_ref(run: str) -> AssetRef:
    """One retraining as an asset."""
    return AssetRef(RUN, run)


class Retrainings:
    """Keeps retrainings, and draws them in the lineage.

    Args:
        catalog: where each is an asset, between what caused it and what it made.
        alerts: tell of those that ended badly.
    """

    def __init__(self, catalog: Catalog, alerts: Alerts) -> None:
        self._catalog = catalog
        self._alerts = alerts

    # ---- reading

    @staticmethod
    def get(connection: Connection, run: str) -> RetrainingRun:
        """One retraining; raises NotFound."""
        query = select(retraining_rows).where(retraining_rows.c.id == run)
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(
                f"There is no retraining {run!r}.", hint="`falaj retraining history NAME`."
            )
        return _run(row)

    @staticmethod
    def listed(
        connection: Connection, retraining: str | None = None, *, limit: int = 100
    ) -> list[RetrainingRun]:
        """The newest retrainings first."""
        rows = retraining_rows.c
        query = select(retraining_rows).order_by(rows.begun_at.desc(), rows.id.desc()).limit(limit)
        if retraining is not None:
            query = query.where(rows.retraining == retraining)
        return [_run(row) for row in connection.execute(query)]

    @staticmethod
    def underway(connection: Connection) -> list[RetrainingRun]:
        """Those that have not ended, the oldest first."""
        query = select(retraining_rows).where(retraining_rows.c.open_key.is_not(None))
        return [_run(row) for row in connection.execute(query.order_by(retraining_rows.c.id))]

    @staticmethod
    def fresh(connection: Connection, retraining: str, causes: Sequence[Cause]) -> list[Cause]:
        """The causes that no retraining stands for yet, each with those keys alone."""
        keys = [key for cause in causes for key in cause.keys]
        query = select(cause_rows.c.key).where(
            cause_rows.c.retraining == retraining, cause_rows.c.key.in_(keys)
        )
        taken = set(connection.execute(query).scalars())
        found = []
        for cause in causes:
            left = tuple(key for key in cause.keys if key not in taken)
            if left:
                found.append(cause.model_copy(update={"keys": left}))
        return found

    @staticmethod
    def n_since(connection: Connection, retraining: str, since: datetime) -> int:
        """How many were begun since an instant."""
        rows = retraining_rows.c
        query = select(func.count()).where(
            rows.retraining == retraining,
            rows.begun_at > since,
            rows.state != RetrainingState.REFUSED,
        )
        return int(connection.execute(query).scalar_one())

    # ---- writing

    def begin(
        self,
        call: Call,
        declared: Retraining,
        definition_version: int,
        causes: Sequence[Cause],
        champion: int | None,
    ) -> RetrainingRun | None:
        """Begin one retraining for all of these causes; None if one goes on, or if another
        worker has begun one for any of them meanwhile.

        More than the declared number within the declared time are refused: that is kept too, and
        the causes are done with.
        """
        run, now = new_id("retraining"), call.now
        refused = self.n_since(call.connection, declared.name, now - declared.within)
        over = refused >= declared.most
        cause = _joined(causes)
        state = RetrainingState.REFUSED if over else RetrainingState.BEGUN
        first = Told(
            at=now, what="cause", text=cause.text,
            refs=(*(f"alert:{one}" for one in cause.alerts),
                  *(f"report:{one}" for one in cause.reports)),
        )  # fmt: skip
        row: dict[str, Any] = {
            "id": run,
            "retraining": declared.name,
            "definition_version": definition_version,
            "principal": call.principal.id,
            "state": state,
            "open_key": None if over else declared.name,
            "cause": cause.model_dump(mode="json"),
            "begun_at": now,
            "ended_at": now if over else None,
            "champion": champion,
            "model": declared.model,
            "standard": False,
            "story": [first.model_dump(mode="json")],
        }
        if not insert_if_absent(call.connection, retraining_rows, row):
            return None
        for key in cause.keys:
            one = {"retraining": declared.name, "key": key, "run": run}
            if not insert_if_absent(call.connection, cause_rows, one):
                raise Stale(f"A retraining for {key} was begun already.")
        self._draw(call, declared, run, cause)
        call.note(retraining=run, cause=cause.text)
        call.emit("retraining.begun", retraining=declared.name, run=run, cause=cause.text)
        found = self.get(call.connection, run)
        if over:
            told = f"{refused} retrainings began within {declared.within}, as many as are permitted"
            error = {"code": "retrainings-spent", "message": f"{told}: none was begun."}
            self._set(call, run, error=error)
            self._alert(call, found, declared.endpoint, error["message"])
        return found

    def move(
        self,
        call: Call,
        run: RetrainingRun,
        to: RetrainingState,
        told: Told | None = None,
        /,
        **facts: Any,
    ) -> None:
        """Take a retraining from the state in which it was read to another one.

        Raises:
            Stale: it stands elsewhere by now; the transaction is to be rolled back.
        """
        values: dict[str, Any] = {"state": to, **facts}
        if told is not None:
            values["story"] = _told(run, told)
        if to.ended:
            values |= {"ended_at": call.now, "open_key": None}
        mine = (retraining_rows.c.id == run.id, retraining_rows.c.state == run.state)
        changed = call.connection.execute(update(retraining_rows).where(*mine).values(**values))
        if not changed.rowcount:
            raise Stale(f"The retraining {run.id} is not {run.state} any more.")
        call.note(retraining=run.id, state=str(to))
        call.emit(f"retraining.{to}", retraining=run.retraining, run=run.id)

    def choose(
        self, call: Call, run: RetrainingRun, choice: Told | None, *, instead_of: Told | None
    ) -> Told | None:
        """Keep what is to be asked for, before it is; returns the choice that stands then.

        What was chosen by then stands, unless it is ``instead_of``: of two workers, and of two
        attempts, the second asks for what the first one has asked for.

        Raises:
            Stale: the retraining has moved on.
        """
        mine = (retraining_rows.c.id == run.id, retraining_rows.c.state == run.state)
        row = call.connection.execute(
            select(retraining_rows).where(*mine).with_for_update()
        ).first()
        if row is None:
            raise Stale(f"The retraining {run.id} is not {run.state} any more.")
        now = _run(row)
        if now.choice != instead_of:
            return now.choice
        call.note(retraining=run.id, choice=choice.text if choice else None)
        self._set(call, run.id, story=_told(now, *([choice] if choice else [])))
        return choice

    def end_badly(
        self,
        call: Call,
        run: RetrainingRun,
        to: RetrainingState,
        endpoint: str,
        error: dict[str, Any],
    ) -> None:
        """End a retraining without a new version in production, and raise an alert."""
        told = Told(at=call.now, what=str(to), text=str(error.get("message", ""))[:1000])
        self.move(call, run, to, told, error=error)
        self._alert(call, run, endpoint, told.text)

    def link(self, call: Call, run: RetrainingRun, made: AssetRef) -> None:
        """Draw that a retraining led to an asset, if the catalogue has that."""
        if self._catalog.exists(call.connection, made):
            self._catalog.link(call, retraining_ref(run.id), made, Relation.DEFINES)

    def _draw(self, call: Call, declared: Retraining, run: str, cause: Cause) -> None:
        ref = retraining_ref(run)
        self._catalog.record(
            call, ref, description=f"a retraining of {declared.model}: {cause.text}"[:500],
            attributes={"retraining": declared.name, "model": declared.model},
        )  # fmt: skip
        self._catalog.link(call, declared.ref, ref, Relation.DEFINES)
        for alert in cause.alerts:
            if self._catalog.exists(call.connection, AssetRef("alert", alert)):
                self._catalog.link(call, AssetRef("alert", alert), ref, Relation.FEEDS)

    def _alert(self, call: Call, run: RetrainingRun, endpoint: str, message: str) -> None:
        self._alerts.raise_alert(
            call,
            name=f"{run.retraining}:retraining",
            subject=AssetRef("endpoint", endpoint),
            severity=Severity.WARNING,
            message=f"The retraining {run.retraining} led to no new version: {message}"[:2000],
            evidence={"retraining": run.id, "cause": run.cause.text},
        )

    @staticmethod
    def _set(call: Call, run: str, **values: Any) -> None:
        mine = retraining_rows.c.id == run
        call.connection.execute(update(retraining_rows).where(mine).values(**values))


def _joined(causes: Sequence[Cause]) -> Cause:
    """Several causes as one; the sort of the first."""
    return Cause(
        on=causes[0].on,
        keys=tuple(dict.fromkeys(key for one in causes for key in one.keys)),
        text=" Also: ".join(one.text for one in causes)[:2000],
        alerts=tuple(dict.fromkeys(alert for one in causes for alert in one.alerts)),
        reports=tuple(dict.fromkeys(report for one in causes for report in one.reports)),
    )


def _told(run: RetrainingRun, *more: Told) -> list[dict[str, Any]]:
    """The story with more lines, as it is kept; what was chosen is done with."""
    before = [one for one in run.story if one.what != CHOICE]
    return [one.model_dump(mode="json") for one in (*before, *more)]


def _run(row: Any) -> RetrainingRun:
    return RetrainingRun.model_validate(
        {name: getattr(row, name) for name in RetrainingRun.model_fields}
    )
