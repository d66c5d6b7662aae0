"""The alerts, incidents, rollouts and changes of an endpoint or a monitor, for its page.

Each list is that of the action of its name, so that nobody finds here what that would not show.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from falaj.interfaces.sheets import Cell, Section, Table, at, linked, page_of, seen
from falaj.interfaces.visitors import People
from falaj.kernel.call import AssetRef
from falaj.trust.websessions import Visitor

if TYPE_CHECKING:
    from falaj.operations.model import Alert, Change, Incident
    from falaj.rollouts.records import RolloutSummary

_MOST = 20
_MOST_ASKED = 1_000
"""Assets or ids that are asked about at once."""


async def about(
    people: People,
    visitor: Visitor,
    endpoint: str,
    *,
    named: str = "",
    approved: Collection[str] = (),
) -> list[Section]:
    """What there is about an endpoint; at most twenty of each, the newest first.

    Args:
        named: only alerts whose names begin so, with their incidents and the changes of those.
        approved: ids of changes that belong to it beside those about it and its rollouts.
    """
    subject = AssetRef("endpoint", endpoint)
    about_it = {"subjects": [str(subject)]}
    lists = {
        "alerts": await seen(people, visitor, "alerts.list", **about_it, named=named),
        "incidents": await seen(people, visitor, "incidents.list", **about_it),
    }
    lists["rollouts"] = await seen(people, visitor, "rollouts.list")
    alerts = lists["alerts"] or ()
    raised = {one.id for one in alerts}
    incidents = [
        one
        for one in lists["incidents"] or ()
        if raised & set(one.alerts) or (not named and one.subject == subject)
    ]
    rollouts = [one for one in lists["rollouts"] or () if one.endpoint == endpoint]
    subjects = [subject, *(AssetRef("rollout", one.name) for one in rollouts)]
    ids = [*approved, *(change for one in incidents for change in one.changes)]
    changes = await _changed(people, visitor, subjects, ids)
    lists["changes"] = changes
    hidden = [name for name, found in lists.items() if found is None]
    tables = [
        *_alerts(alerts[:_MOST]),
        *_incidents(incidents[:_MOST]),
        *_rollouts(rollouts[:_MOST]),
        *_changes((changes or ())[:_MOST]),
    ]
    words = [f"You may not list {', '.join(hidden)}."] if hidden else []
    if not tables:
        words.append("There are none, or none that you may see.")
    return [Section("Alerts, incidents and changes", words=words, tables=tables)]


async def _changed(
    people: People, visitor: Visitor, subjects: Sequence[AssetRef], ids: Sequence[str]
) -> list[Change] | None:
    """The changes about some assets or with one of some ids, the newest first; None if the
    visitor may list none."""
    asked: list[dict[str, Any]] = [{"subjects": [str(one) for one in subjects[:_MOST_ASKED]]}]
    if ids:
        asked.append({"ids": ids[:_MOST_ASKED]})
    found: dict[str, Change] = {}
    for one in asked:
        listed = await seen(people, visitor, "changes.list", **one)
        if listed is None:
            return None
        found.update({change.id: change for change in listed})
    return sorted(found.values(), key=lambda one: (one.requested_at, one.id), reverse=True)


def _alerts(found: Sequence[Alert]) -> list[Table]:
    rows = [
        (
            Cell(one.name, page_of("alert", one.id)),
            Cell(str(one.state), strong=str(one.state) == "open"),
            str(one.severity),
            at(one.raised_at),
            one.message,
        )
        for one in found
    ]
    return _table("Alerts", ("Alert", "State", "Severity", "Raised", "Message"), rows)


def _incidents(found: Sequence[Incident]) -> list[Table]:
    rows = [
        (
            Cell(one.title, page_of("incident", one.id)),
            str(one.state),
            str(one.priority),
            at(one.opened_at),
        )
        for one in found
    ]
    return _table("Incidents", ("Incident", "State", "Priority", "Opened"), rows)


def _rollouts(found: Sequence[RolloutSummary]) -> list[Table]:
    rows = [
        (
            Cell(one.name, page_of("rollout", one.name)),
            str(one.how),
            "never started" if one.state is None else str(one.state).replace("_", " "),
            at(one.started_at),
        )
        for one in found
    ]
    return _table("Rollouts", ("Rollout", "Kind", "State", "Since"), rows)


def _changes(found: Sequence[Change]) -> list[Table]:
    rows = [
        (
            Cell(one.title, page_of("change", one.id)),
            linked(one.subject),
            str(one.state).replace("_", " "),
            at(one.requested_at),
        )
        for one in found
    ]
    return _table("Changes", ("Change", "About", "State", "Asked for"), rows)


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Table]:
    return [Table(caption, columns, rows)] if rows else []


async def of_alert(people: People, visitor: Visitor, alert: Alert) -> list[tuple[str, Cell]]:
    """The monitor that raised an alert, and the incidents that it belongs to."""
    told: list[tuple[str, Cell]] = []
    monitor, colon, _ = alert.name.partition(":")
    if colon and alert.subject.kind == "endpoint":
        monitors = await seen(people, visitor, "monitors.overview")
        if any(one.name == monitor for one in monitors or ()):
            told.append(("Monitor", Cell(monitor, page_of("monitor", monitor))))
    incidents = await seen(people, visitor, "incidents.list", subjects=[str(alert.subject)])
    return told + [
        ("Incident", Cell(one.title, page_of("incident", one.id)))
        for one in incidents or ()
        if alert.id in one.alerts
    ]


async def of_incident(
    people: People, visitor: Visitor, incident: Incident
) -> list[tuple[str, Cell]]:
    """The monitors of the endpoint that an incident is about."""
    if incident.subject.kind != "endpoint":
        return []
    monitors = await seen(people, visitor, "monitors.overview")
    return [
        ("Monitor of the endpoint", Cell(one.name, page_of("monitor", one.name)))
        for one in monitors or ()
        if one.endpoint == incident.subject.key
    ]


async def of_change(people: People, visitor: Visitor, change: Change) -> list[tuple[str, Cell]]:
    """The incidents that name a change."""
    incidents = await seen(people, visitor, "incidents.list", subjects=[str(change.subject)])
    return [
        ("Incident", Cell(one.title, page_of("incident", one.id)))
        for one in incidents or ()
        if change.id in one.changes
    ]
