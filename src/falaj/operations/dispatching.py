"""What is to be told, and when: grouping, deduplication, repetition, escalation.

Pure functions of the alerts that stand, the routes, and what was told before. The semantics
are Alertmanager's (its ``dispatch`` and ``notify`` packages): a new group waits ``group_wait``;
after that it is looked at each ``group_interval``, and told if there are news (an alert that
was not told, or one that is over) or nothing was said for ``repeat_interval``. Where Falaj
differs: an alert that was told and is silenced when it ends is told to have ended, so that
nothing stays open elsewhere; and alerts can be acknowledged, which ends repetition and
escalation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from falaj.operations.histories import key_of
from falaj.operations.routing import AlertRoute, InhibitRule, Labels, all_fit, routes_for

Status = Literal["firing", "acknowledged", "resolved"]


@dataclass(frozen=True)
class Standing:
    """An alert that is not resolved, as the dispatcher sees it."""

    id: str
    labels: Labels
    acknowledged: bool = False
    silenced: bool = False


@dataclass(frozen=True)
class Said:
    """What a receiver was told of one alert that is not over, as far as it knows."""

    labels: Labels
    at: datetime
    """First told with these labels."""
    acknowledged: bool = False


@dataclass(frozen=True)
class Group:
    """Alerts of one route that one receiver is told together."""

    key: str
    route: str
    step: int
    """0 for the route's receiver, n for the n-th of its escalation."""
    receiver: str
    labels: Labels
    """The values of ``group_by``."""
    due_at: datetime
    """When it is looked at next."""
    told_at: datetime | None = None
    said: Mapping[str, Said] = field(default_factory=dict)
    """By alert."""


@dataclass(frozen=True)
class Message:
    """What a receiver is to be told now of a group."""

    group: str
    route: str
    receiver: str
    labels: Labels
    status: Status
    firing: tuple[str, ...]
    """The alerts that stand."""
    resolved: Mapping[str, Labels]
    """Those that are over since it was last told, with the labels they were told by."""


def inhibited(alerts: Sequence[Standing], rules: Iterable[InhibitRule]) -> set[str]:
    """The alerts that others keep quiet (``InhibitRule.inhibits``); a silenced alert still
    keeps others quiet. Takes time in proportion to alerts and rules, not to pairs of alerts."""
    found: set[str] = set()
    for rule in (one for one in rules if one.enabled):

        def key(alert: Standing, rule: InhibitRule = rule) -> tuple[str, ...]:
            return tuple(alert.labels.get(name, "") for name in rule.equal)

        sources = [one for one in alerts if all_fit(rule.source_matchers, one.labels)]
        targets = [one for one in alerts if all_fit(rule.target_matchers, one.labels)]
        both = {one.id for one in sources} & {one.id for one in targets}
        of_any = {key(one) for one in sources}
        of_pure = {key(one) for one in sources if one.id not in both}
        found |= {one.id for one in targets if key(one) in (of_pure if one.id in both else of_any)}
    return found


def dispatched(
    groups: Mapping[str, Group],
    alerts: Sequence[Standing],
    routes: Sequence[AlertRoute],
    rules: Iterable[InhibitRule],
    now: datetime,
) -> tuple[dict[str, Group], list[Message]]:
    """One turn: the groups as they are after it, and what is to be told.

    Args:
        groups: by key, as the turn before left them.
        alerts: those that are not resolved.
        routes, rules: as declared.
        now: the time.

    The same turn again says nothing: what was said stands in the groups.
    """
    quiet = inhibited(alerts, rules) | {one.id for one in alerts if one.silenced}
    members = _members(groups, alerts, routes, quiet, now)
    by_name = {route.name: route for route in routes}
    after: dict[str, Group] = {}
    messages = []
    for key in [*groups, *(key for key in members if key not in groups)]:
        standing, group = members.get(key, ([], None))[0], groups.get(key)
        if group is None:
            group = members[key][1]
            assert group is not None  # noqa: S101 - members makes it with its first alert
        kept, message = _looked_at(group, standing, by_name.get(group.route), quiet, now)
        if kept is not None:
            after[key] = kept
        if message is not None:
            messages.append(message)
    return after, messages


def _members(
    groups: Mapping[str, Group],
    alerts: Sequence[Standing],
    routes: Sequence[AlertRoute],
    quiet: set[str],
    now: datetime,
) -> dict[str, tuple[list[Standing], Group | None]]:
    """The alerts of each group, and the group itself where it is new."""
    found: dict[str, tuple[list[Standing], Group | None]] = {}
    for alert in alerts:
        for route in routes_for(routes, alert.labels):
            labels = {name: alert.labels.get(name, "") for name in route.group_by}
            for step, receiver in enumerate(
                [route.receiver, *(one.receiver for one in route.escalation)]
            ):
                key = key_of(route.name, step, receiver, labels)
                if step and not _escalated(groups, route, step, labels, alert, now):
                    break
                if alert.id in quiet and key not in groups:
                    continue  # what is kept quiet opens no group
                wait = route.group_wait if step == 0 else timedelta(0)
                new = Group(key, route.name, step, receiver, labels, now + wait)
                found.setdefault(key, ([], new))[0].append(alert)
    return found


def _escalated(
    groups: Mapping[str, Group],
    route: AlertRoute,
    step: int,
    labels: Labels,
    alert: Standing,
    now: datetime,
) -> bool:
    """True if the receiver of a step is to know of an alert."""
    receivers = [route.receiver, *(one.receiver for one in route.escalation)]
    own = groups.get(key_of(route.name, step, receivers[step], labels))
    if own is not None and alert.id in own.said:
        return True  # who was told is told how it ends
    before = groups.get(key_of(route.name, step - 1, receivers[step - 1], labels))
    said = None if before is None else before.said.get(alert.id)
    after = timedelta(minutes=route.escalation[step - 1].after_minutes)
    return said is not None and not alert.acknowledged and now >= said.at + after


def _looked_at(
    group: Group,
    standing: Sequence[Standing],
    route: AlertRoute | None,
    quiet: set[str],
    now: datetime,
) -> tuple[Group | None, Message | None]:
    """The group after a look (None if it is over), and what is to be told."""
    if route is not None and now < group.due_at:
        return group, None
    here = {one.id: one for one in standing}
    firing = [one for one in standing if one.id not in quiet]
    over = {known: said.labels for known, said in group.said.items() if known not in here}
    status = _status(group, firing, over, route, now)
    if status is None:
        if not group.said and not firing:
            return None, None
        due = now if route is None else now + route.group_interval
        return replace(group, due_at=due), None
    said = {
        known: kept for known, kept in group.said.items() if known in here and known in quiet
    } | {one.id: _said(group.said.get(one.id), one, now) for one in firing}
    message = Message(
        group.key, group.route, group.receiver, group.labels, status,
        tuple(one.id for one in firing), over,
    )  # fmt: skip
    if not said or route is None:
        return None, message
    return replace(group, said=said, told_at=now, due_at=now + route.group_interval), message


def _status(
    group: Group,
    firing: Sequence[Standing],
    over: Mapping[str, Labels],
    route: AlertRoute | None,
    now: datetime,
) -> Status | None:
    """How a group is to be told now; None if there is nothing to say."""
    if not firing:
        # With some that are kept quiet, all is not over yet.
        return "resolved" if over and len(over) == len(group.said) else None
    before = [group.said.get(one.id) for one in firing]
    all_acknowledged = all(one.acknowledged for one in firing)
    for one, said in zip(firing, before, strict=True):
        if said is None or dict(said.labels) != dict(one.labels):
            return "firing"
    if over:
        return "acknowledged" if all_acknowledged else "firing"
    if all_acknowledged:
        is_news = any(said is not None and not said.acknowledged for said in before)
        return "acknowledged" if is_news else None
    is_due = route is not None and (
        group.told_at is None or now - group.told_at >= route.repeat_interval
    )
    return "firing" if is_due else None


def _said(before: Said | None, alert: Standing, now: datetime) -> Said:
    same = before is not None and dict(before.labels) == dict(alert.labels)
    at = before.at if before is not None and same else now
    return Said(alert.labels, at, alert.acknowledged)
