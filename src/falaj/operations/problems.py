"""Problems: the causes of incidents, until a change has taken them away.

A problem whose cause is found and that can be worked around is a *known error*. It is resolved
by a change that was carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.operations import tables
from falaj.operations.changes import Changes
from falaj.operations.histories import add_entry, add_link, entries, linked, record_about
from falaj.operations.incidents import Incidents
from falaj.operations.model import MOST_LISTED, ChangeState, Problem, ProblemState, told

_CARRIED_OUT = (ChangeState.APPROVED, ChangeState.IN_REVIEW, ChangeState.REVIEWED)


class Problems:
    """The problems of a platform.

    Args:
        catalog: where each problem is an asset.
        incidents: what they caused.
        changes: what resolves them.
    """

    def __init__(self, catalog: Catalog, incidents: Incidents, changes: Changes) -> None:
        self._catalog = catalog
        self._incidents = incidents
        self._changes = changes

    def open(self, call: Call, incidents: Sequence[str], title: str) -> Problem:
        """Open a problem from incidents; it is about what the first one is about.

        Raises:
            InvalidInput: no incident, or an empty title.
            NotFound: there is no such incident.
            Conflict: one of them belongs to another problem.
        """
        wanted = list(dict.fromkeys(incidents))
        if not wanted:
            raise InvalidInput("A problem is opened from incidents.", hint="Name at least one.")
        subject = self._incidents.get(call.connection, wanted[0]).subject
        problem_id = new_id("prob")
        call.connection.execute(
            insert(tables.problems).values(
                id=problem_id,
                title=told("title", title),
                subject_kind=subject.kind,
                subject_key=subject.key,
                state=ProblemState.OPEN,
                root_cause="",
                workaround="",
                opened_at=call.now,
                opened_by=call.principal.id,
                resolution="",
            )
        )
        ref = AssetRef("problem", problem_id)
        record_about(self._catalog, call, ref, subject, title)
        add_entry(call, problem_id, "opened", f"from {', '.join(wanted)}")
        for incident in wanted:
            self._incidents.link(call, incident, ref)
        call.note(problem=problem_id)
        opened = self.get(call.connection, problem_id)
        _tell(call, "problem.opened", opened)
        return opened

    def get(self, connection: Connection, problem_id: str) -> Problem:
        """One problem with its incidents and timeline; raises NotFound."""
        return self._found(connection, problem_id, locked=False)

    def listed(
        self,
        connection: Connection,
        *,
        state: ProblemState | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Problem]:
        """The problems, the newest first, without incidents and timelines."""
        table = tables.problems
        query = select(table).limit(limit).order_by(table.c.opened_at.desc(), table.c.id.desc())
        if state is not None:
            query = query.where(table.c.state == state)
        return [_problem(row) for row in connection.execute(query)]

    def note(self, call: Call, problem_id: str, text: str) -> Problem:
        """Add a line to the timeline, also of a resolved problem."""
        self._found(call.connection, problem_id, locked=True)
        add_entry(call, problem_id, "note", told("note", text))
        return self.get(call.connection, problem_id)

    def diagnose(
        self, call: Call, problem_id: str, root_cause: str, workaround: str = ""
    ) -> Problem:
        """Say what the cause is; with a workaround it is a known error from then on.

        Raises:
            Conflict: it is resolved.
            InvalidInput: no cause is given.
        """
        self._open(call, problem_id)
        cause = told("root cause", root_cause)
        around = told("workaround", workaround, required=False)
        state = ProblemState.KNOWN_ERROR if around else ProblemState.OPEN
        self._set(call, problem_id, root_cause=cause, workaround=around, state=state)
        add_entry(call, problem_id, "diagnosed", cause)
        if around:
            add_entry(call, problem_id, "workaround", around)
        diagnosed = self.get(call.connection, problem_id)
        _tell(call, "problem.diagnosed", diagnosed)
        return diagnosed

    def resolve(self, call: Call, problem_id: str, change: str, resolution: str) -> Problem:
        """Say that a change has taken the cause away.

        Raises:
            NotFound: there is no such problem or change.
            Conflict: it is resolved, or the change was not carried out.
        """
        self._open(call, problem_id)
        found = self._changes.get(call.connection, change)
        if found.state not in _CARRIED_OUT:
            raise Conflict(
                f"The change {change} is {found.state}; nothing was carried out.",
                hint="A problem is resolved by a change that was.",
            )
        words = told("resolution", resolution)
        self._set(
            call,
            problem_id,
            state=ProblemState.RESOLVED,
            resolved_at=call.now,
            resolved_by=call.principal.id,
            resolution=words,
        )
        add_link(call, problem_id, change, "change")
        add_entry(call, problem_id, "resolved", f"{words} ({change})")
        resolved = self.get(call.connection, problem_id)
        _tell(call, "problem.resolved", resolved)
        return resolved

    def _open(self, call: Call, problem_id: str) -> Problem:
        problem = self._found(call.connection, problem_id, locked=True)
        if problem.state is ProblemState.RESOLVED:
            raise Conflict(
                f"The problem {problem_id} was resolved by {problem.resolved_by} already.",
                hint="Open a new one if it is back.",
            )
        return problem

    def _found(self, connection: Connection, problem_id: str, *, locked: bool) -> Problem:
        query = select(tables.problems).where(tables.problems.c.id == problem_id)
        row = connection.execute(query.with_for_update() if locked else query).first()
        if row is None:
            raise NotFound(
                f"There is no problem {problem_id!r}.", hint="`falaj problems list` shows all."
            )
        links = linked(connection, problem_id)
        return _problem(row).model_copy(
            update={
                "incidents": links.get("incident", []),
                "change": next(iter(links.get("change", [])), None),
                "timeline": entries(connection, problem_id),
            }
        )

    @staticmethod
    def _set(call: Call, problem_id: str, **values: Any) -> None:
        call.connection.execute(
            update(tables.problems).where(tables.problems.c.id == problem_id).values(**values)
        )


def _tell(call: Call, event: str, problem: Problem) -> None:
    call.emit(
        event,
        id=problem.id,
        subject=str(problem.subject),
        title=problem.title,
        text=problem.resolution or problem.root_cause,
    )


def _problem(row: Row[Any]) -> Problem:
    values = {name: getattr(row, name, None) for name in Problem.model_fields}
    values |= {"subject": AssetRef(row.subject_kind, row.subject_key)}
    values |= {"incidents": [], "change": None, "timeline": []}
    return Problem.model_validate(values)
