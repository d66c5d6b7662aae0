"""Brings the alerts that stand to those who are to know: reads, decides, writes deliveries.

The decision is that of ``dispatching``. What it says is written in one transaction with the
groups' new state, under a number that grows with each turn of a group: of two processes that
decide at once, one finds the number taken and decides anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from falaj.kernel.errors import NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.operations.alerting_model import (
    MOST_TOLD,
    GroupMessage,
    Silence,
    ToldAlert,
)
from falaj.operations.alerting_tables import alert_deliveries, alert_groups
from falaj.operations.dispatching import Group, Message, Said, Standing, Status, dispatched
from falaj.operations.model import Alert, AlertState, DeliveryState
from falaj.operations.model import over as over_told
from falaj.operations.routing import (
    AlertReceiver,
    AlertRoute,
    InhibitRule,
    Labels,
    all_fit,
    labels_of,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.catalog.definitions import Definitions
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts
    from falaj.operations.silences import Silences

_KNOWS_ACKNOWLEDGEMENT = ("pagerduty",)
"""Channels that have a word for "somebody looks after it"."""


_KEEPS_EACH_ALERT = ("alertmanager",)
"""Channels that must hear of every single alert, and how it ends."""


class _Overtaken(Exception):
    """Another process has taken the turn."""


@dataclass(frozen=True)
class _Declared:
    routes: list[AlertRoute]
    rules: list[InhibitRule]
    receivers: dict[str, AlertReceiver]


@dataclass(frozen=True)
class _Part:
    """What one message holds of a group's alerts."""

    alerts: tuple[ToldAlert, ...]
    n_more_standing: int = 0
    n_more_over: int = 0


class Dispatcher:
    """Decides what receivers are told of alerts, and writes it down for the sender.

    Args:
        definitions: routes, rules and receivers.
        alerts: those that stand.
        silences: which keep some quiet.
        catalog: tells tags and regions of what alerts are about.
        calls: opens transactions, and tells the time.
        address: where the platform's pages are; empty if they have no known address.
    """

    def __init__(
        self,
        definitions: Definitions,
        alerts: Alerts,
        silences: Silences,
        catalog: Catalog,
        calls: Calls,
        address: Callable[[], str] = str,
    ) -> None:
        self._definitions = definitions
        self._alerts = alerts
        self._silences = silences
        self._catalog = catalog
        self._calls = calls
        self._address = address

    def run_once(self) -> int:
        """One turn; returns how many messages were written."""
        now, database = self._calls.now(), self._calls.database
        with database.reading() as connection:
            groups, turns = _groups(connection)
            alerts = self._alerts.unresolved(connection)
            if not groups and not alerts:
                return 0
            declared = self._declared(connection)
            standing = self._standing(connection, alerts, now)
        after, messages = dispatched(groups, standing, declared.routes, declared.rules, now)
        if after == groups and not messages:
            return 0
        try:
            with database.transaction() as connection:
                _keep(connection, groups, after, turns)
                written = [
                    self._write(connection, message, declared.receivers, now)
                    for message in messages
                ]
        except _Overtaken:
            return 0
        return sum(written)

    def _declared(self, connection: Connection) -> _Declared:
        def all_of(kind: str) -> list[Any]:
            listed = self._definitions.listed(connection, kind=kind)
            return [self._definitions.parsed(one) for one in listed]

        receivers = {one.name: one for one in all_of(AlertReceiver.kind)}
        return _Declared(all_of(AlertRoute.kind), all_of(InhibitRule.kind), receivers)

    def _standing(
        self, connection: Connection, alerts: Sequence[Alert], now: datetime
    ) -> list[Standing]:
        silences = [one for one in self._silences.listed(connection, since=now) if one.active(now)]
        return [
            Standing(
                alert.id,
                labels,
                acknowledged=alert.state is AlertState.ACKNOWLEDGED,
                silenced=_silenced(silences, labels),
            )
            for alert in alerts
            for labels in [labels_in(self._catalog, connection, alert)]
        ]

    def _write(
        self,
        connection: Connection,
        message: Message,
        receivers: Mapping[str, AlertReceiver],
        now: datetime,
    ) -> int:
        """Write deliveries, if their receiver is told such things at all; returns how many."""
        receiver = receivers.get(message.receiver)
        if receiver is None or (message.status == "resolved" and not receiver.send_resolved):
            return 0
        status: Status = message.status
        if status == "acknowledged" and receiver.channel not in _KNOWS_ACKNOWLEDGEMENT:
            if not message.resolved or not receiver.send_resolved:
                return 0
            status = "firing"  # some of the group is over, which is told here and never again
        told = self._told(connection, message, receiver.send_resolved)
        parts = _parts(told, receiver.channel)
        for part in parts:
            self._put(connection, part, message, status, now)
        return len(parts)

    def _put(
        self, connection: Connection, part: _Part, message: Message, status: Status, now: datetime
    ) -> None:
        told = GroupMessage(
            id=new_id("notice"),
            at=now,
            group=message.group,
            route=message.route,
            receiver=message.receiver,
            status=status,
            labels=dict(message.labels),
            alerts=part.alerts,
            n_more_standing=part.n_more_standing,
            n_more_over=part.n_more_over,
            address=self._address(),
        )
        connection.execute(
            insert(alert_deliveries).values(
                id=told.id,
                receiver=told.receiver,
                group_key=told.group,
                status=told.status,
                body=told.model_dump_json(),
                state=DeliveryState.WAITING,
                attempts=0,
                created_at=now,
                next_at=now,
                error="",
            )
        )

    def _told(
        self, connection: Connection, message: Message, send_resolved: bool
    ) -> list[ToldAlert]:
        over = dict(message.resolved) if send_resolved else {}
        found = []
        for alert_id in (*message.firing, *over):
            alert = self._alerts.get(connection, alert_id)
            labels = over.get(alert_id) or labels_in(self._catalog, connection, alert)
            # One whose labels have changed is over as what it was, though it stands.
            ended = (alert.resolved_at or self._calls.now()) if alert_id in over else None
            found.append(
                ToldAlert(
                    id=alert.id,
                    name=alert.name,
                    subject=alert.subject,
                    severity=alert.severity,
                    message=over_told(alert.message)
                    if ended and alert.resolved_at
                    else alert.message,
                    labels=dict(labels),
                    raised_at=alert.raised_at,
                    resolved_at=ended,
                    acknowledged_by=alert.acknowledged_by,
                )
            )
        return found


def _parts(told: Sequence[ToldAlert], channel: str) -> list[_Part]:
    """What is told of these alerts, ``MOST_TOLD`` at a time.

    A receiver that keeps each alert for itself is told all, in several messages. People are
    told the most severe, of what is over half at least, and how many more there are.
    """
    if channel in _KEEPS_EACH_ALERT:
        starts = range(0, len(told), MOST_TOLD)
        return [_Part(tuple(told[start : start + MOST_TOLD])) for start in starts]
    if len(told) <= MOST_TOLD:
        return [_Part(tuple(told))]
    standing = [one for one in told if one.resolved_at is None]
    over = [one for one in told if one.resolved_at is not None]
    standing.sort(key=lambda one: -one.severity.level)
    n_over = min(len(over), max(MOST_TOLD // 2, MOST_TOLD - len(standing)))
    n_standing = min(len(standing), MOST_TOLD - n_over)
    kept = (*standing[:n_standing], *over[:n_over])
    return [_Part(kept, len(standing) - n_standing, len(over) - n_over)]


def labels_in(catalog: Catalog, connection: Connection, alert: Alert) -> Labels:
    """The labels of an alert, with what the catalogue knows of its subject."""
    try:
        about = catalog.get(connection, alert.subject)
    except NotFound:
        return labels_of(alert)
    return labels_of(alert, tags=about.tags, region=about.region)


def _silenced(silences: Sequence[Silence], labels: Labels) -> bool:
    return any(all_fit(one.matchers, labels) for one in silences)


def _groups(connection: Connection) -> tuple[dict[str, Group], dict[str, int]]:
    rows = list(connection.execute(select(alert_groups)))
    kept = {row.key: row.turn for row in rows}
    return {row.key: _group(row.key, row.document) for row in rows}, kept


def _group(key: str, kept: Mapping[str, Any]) -> Group:
    said = {
        alert: Said(one["labels"], datetime.fromisoformat(one["at"]), one["acknowledged"])
        for alert, one in kept["said"].items()
    }
    told_at = kept["told_at"]
    return Group(
        key=key,
        route=kept["route"],
        step=kept["step"],
        receiver=kept["receiver"],
        labels=kept["labels"],
        due_at=datetime.fromisoformat(kept["due_at"]),
        told_at=None if told_at is None else datetime.fromisoformat(told_at),
        said=said,
    )


def _document(group: Group) -> dict[str, Any]:
    return {
        "route": group.route,
        "step": group.step,
        "receiver": group.receiver,
        "labels": dict(group.labels),
        "due_at": group.due_at.isoformat(),
        "told_at": None if group.told_at is None else group.told_at.isoformat(),
        "said": {
            alert: {
                "labels": dict(one.labels),
                "at": one.at.isoformat(),
                "acknowledged": one.acknowledged,
            }
            for alert, one in group.said.items()
        },
    }


def _keep(
    connection: Connection,
    before: Mapping[str, Group],
    after: Mapping[str, Group],
    turns: Mapping[str, int],
) -> None:
    """Write the groups that differ; raises _Overtaken if another process did so meanwhile."""
    table = alert_groups
    for key, group in after.items():
        if key not in before:
            row = {"key": key, "turn": 1, "document": _document(group)}
            if not insert_if_absent(connection, table, row):
                raise _Overtaken
        elif group != before[key]:
            changed = connection.execute(
                update(table)
                .where(table.c.key == key, table.c.turn == turns[key])
                .values(turn=turns[key] + 1, document=_document(group))
            )
            if changed.rowcount != 1:
                raise _Overtaken
    for key in before:
        if key not in after:
            gone = connection.execute(
                delete(table).where(table.c.key == key, table.c.turn == turns[key])
            )
            if gone.rowcount != 1:
                raise _Overtaken
