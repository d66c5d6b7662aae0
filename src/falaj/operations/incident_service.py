"""The actions on incidents and problems."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from falaj.kernel.actions import action
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.operations.guarded import Guarded, Subjects, Visible, asset
from falaj.operations.incident_times import IncidentReport, reported
from falaj.operations.model import Incident, IncidentState, Problem, ProblemState, Scale

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.operations.incidents import Incidents
    from falaj.operations.problems import Problems

Days = Annotated[int, Field(ge=1, le=366)]
IncidentList = list[Incident]
ProblemList = list[Problem]
IncidentIds = Annotated[list[str], Field(min_length=1, max_length=100)]


class IncidentService(Guarded):
    """Incidents: disturbances, their priority, and what was done about them."""

    name = "incidents"

    def __init__(self, incidents: Incidents, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._incidents = incidents

    @action(get="/incidents")
    def list(
        self, state: IncidentState | None = None, *, subjects: Subjects | None = None
    ) -> IncidentList:
        """The incidents, the most pressing first.

        Args:
            state: in which they are.
            subjects: only those about one of these assets (``kind:key``), and those to which an
                alert or a change about one belongs.
        """
        listed = self._incidents.listed(
            self.call.connection, state=state, subjects=self.subjects(subjects)
        )
        return [incident for incident in listed if self.may_see(incident.ref)]

    @action(get="/incidents/{id}", on="incident")
    def get(self, id: str) -> Incident:
        """One incident with its timeline."""
        return self._incidents.get(self.call.connection, id)

    @action(get="/incident-report")
    def report(self, *, days: Days = 30) -> IncidentReport:
        """How long it took to detect, acknowledge and resolve the last days' incidents."""
        end = self.call.now
        start = end - timedelta(days=days)
        opened = self._incidents.opened_between(self.call.connection, start, end)
        return reported([one for one in opened if self.may_see(one.ref)], start, end)

    @action(post="/incidents")
    def open(
        self,
        subject: str,
        *,
        title: str,
        urgency: Scale = Scale.MEDIUM,
        impact: Scale | None = None,
        began_at: datetime | None = None,
    ) -> Incident:
        """Open an incident about an asset (``kind:key``); its impact is read off the lineage."""
        about = asset(subject)
        if not self.may_see(about):
            raise NotFound(f"There is no {about.kind} {about.key!r} in the catalogue.")
        if began_at is not None and began_at.tzinfo is None:
            raise InvalidInput(f"{began_at.isoformat()} has no zone.", hint="Write …T12:00:00Z.")
        return self._incidents.open(
            self.call, about, title, urgency=urgency, impact=impact, began_at=began_at
        )

    @action(post="/incidents/{id}/acknowledgement", on="incident")
    def acknowledge(self, id: str) -> Incident:
        """Say that one looks after an incident."""
        return self._incidents.acknowledge(self.call, id)

    @action(post="/incidents/{id}/assignment", on="incident")
    def assign(self, id: str, *, to: str) -> Incident:
        """Give an incident to a person or a team (``user:amina``, ``team:delays``)."""
        return self._incidents.assign(self.call, id, to)

    @action(post="/incidents/{id}/escalation", on="incident")
    def escalate(self, id: str, *, reason: str, to: str | None = None) -> Incident:
        """Make an incident more urgent by a step, and give it to somebody else if named."""
        return self._incidents.escalate(self.call, id, reason, to)

    @action(post="/incidents/{id}/priority", on="incident")
    def prioritise(self, id: str, *, impact: Scale, urgency: Scale, reason: str) -> Incident:
        """Correct impact and urgency of an incident; the priority follows."""
        return self._incidents.prioritise(self.call, id, impact, urgency, reason)

    @action(post="/incidents/{id}/links", on="incident")
    def link(self, id: str, *, to: str) -> Incident:
        """Note that an alert, a change or a problem (``kind:key``) belongs to an incident."""
        linked = asset(to)
        if not self.may_see(linked):
            raise NotFound(f"There is no {linked.kind} {linked.key!r}.")
        return self._incidents.link(self.call, id, linked)

    @action(post="/incidents/{id}/notes", on="incident")
    def note(self, id: str, *, text: str) -> Incident:
        """Add a line to the timeline of an incident."""
        return self._incidents.note(self.call, id, text)

    @action(post="/incidents/{id}/resolution", on="incident")
    def resolve(self, id: str, *, resolution: str) -> Incident:
        """Close an incident with how it was resolved."""
        return self._incidents.resolve(self.call, id, resolution)


class ProblemService(Guarded):
    """Problems: the causes of incidents, until a change has taken them away."""

    name = "problems"

    def __init__(self, problems: Problems, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._problems = problems

    @action(get="/problems")
    def list(self, state: ProblemState | None = None) -> ProblemList:
        """The problems, the newest first."""
        listed = self._problems.listed(self.call.connection, state=state)
        return [problem for problem in listed if self.may_see(problem.ref)]

    @action(get="/problems/{id}", on="problem")
    def get(self, id: str) -> Problem:
        """One problem with its incidents and timeline."""
        return self._problems.get(self.call.connection, id)

    @action(post="/problems")
    def open(self, incidents: IncidentIds, *, title: str) -> Problem:
        """Open a problem from incidents that it caused."""
        for one in incidents:
            if not self.may_see(AssetRef("incident", one)):
                raise NotFound(f"There is no incident {one!r}.")
        return self._problems.open(self.call, incidents, title)

    @action(post="/problems/{id}/notes", on="problem")
    def note(self, id: str, *, text: str) -> Problem:
        """Add a line to the timeline of a problem."""
        return self._problems.note(self.call, id, text)

    @action(post="/problems/{id}/diagnosis", on="problem")
    def diagnose(self, id: str, *, root_cause: str, workaround: str = "") -> Problem:
        """Say what the cause is; with a workaround it is a known error."""
        return self._problems.diagnose(self.call, id, root_cause, workaround)

    @action(post="/problems/{id}/resolution", on="problem")
    def resolve(self, id: str, *, change: str, resolution: str) -> Problem:
        """Say that a change, which was carried out, has taken the cause away."""
        return self._problems.resolve(self.call, id, change, resolution)
